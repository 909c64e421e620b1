"""Checks data sets before any training: missing images, broken annotations, and whatever else would stop or spoil it.

    adet-iuq check --json cells/train.json --image-root cells/images
    adet-iuq check --folder data/fruit
    adet-iuq check --dataset coco_2017_train --dataset coco_2017_val
    adet-iuq check --config-file configs/CondInst/R50_1x.yaml [KEY VALUE ...]

Exit code 0: nothing is fatal; 1: something is fatal, or a file does not exist.
Images are judged by their headers and their last bytes; PNGs, and files that end unlike a whole JPEG, are decoded.
`python tools/check_dataset.py` is the same program.
"""

import argparse
import os
import sys

from detectron2.config import CfgNode

from adet_iuq.config import add_project_option, import_projects, load_config
from adet_iuq.config.deep_images import RULES, check_rule
from adet_iuq.config.detections import COCO_DETECTIONS
from adet_iuq.data.annotations.checker import check_coco_json
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.registration.announcement import describe_folders
from adet_iuq.data.registration.class_names import match_classes
from adet_iuq.data.registration.datasets import register_datasets, source_of, used_names
from adet_iuq.data.registration.layouts import default_name, find_layout
from adet_iuq.errors import UserError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line; the module's text describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", action="append", default=[], metavar="NAME", help="check this registered data set")
    parser.add_argument("--config-file", help="check DATASETS.TRAIN and DATASETS.TEST of this config")
    parser.add_argument("--json", help="check this COCO-format file")
    parser.add_argument("--image-root", help="folder of the images of --json (default: the folder of the file)")
    parser.add_argument(
        "--folder", help="check what is found in this folder, or in this data.yaml of YOLO segmentation"
    )
    parser.add_argument("--no-image-sizes", action="store_true", help="do not open the images (faster)")
    parser.add_argument(
        "--deep-images", choices=RULES, default="dtype", help="INPUT.DEEP_IMAGES, for --json and --folder"
    )
    add_project_option(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    parsed = parser.parse_args(arguments)
    by_config = parsed.dataset or parsed.config_file or parsed.opts
    if sum(map(bool, (parsed.json, parsed.folder, by_config))) != 1:
        parser.error("give either --json, or --folder, or --dataset, or --config-file and overrides")
    if parsed.json and os.path.isdir(parsed.json):
        parser.error(f"{parsed.json} is a folder: give it as --folder")
    return parsed


def check(arguments: argparse.Namespace) -> tuple[list[Report], str]:
    """The reports on the data sets of the command line, and the reason why sound sets do not fit one run, if there is one.

    Raises:
        UserError: the config is wrong, or a data set in it is unknown.
    """
    sizes = not arguments.no_image_sizes
    if arguments.json:
        root = arguments.image_root or os.path.dirname(arguments.json) or "."
        report = check_coco_json(
            arguments.json, root, image_sizes=sizes, deep_images=arguments.deep_images, detections=COCO_DETECTIONS
        )
        return [report], ""
    cfg = load_config(arguments.config_file, arguments.opts, import_projects(arguments.project)).cfg
    if arguments.dataset:
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(arguments.dataset), ()
    if arguments.folder:
        _take_folder(cfg, arguments.folder, arguments.deep_images)
    register_datasets(cfg)
    for text in describe_folders(cfg):
        print(text)
    reports = []
    for name in used_names(cfg):
        source = source_of(name)
        if source is None:
            print(f"{name} does not come as a COCO-format JSON file; not checked")
            continue
        json_file, image_root, stock = source
        reports.append(
            check_coco_json(
                json_file,
                image_root,
                stock=stock,
                image_sizes=sizes,
                training=name in cfg.DATASETS.TRAIN,
                deep_images=check_rule(cfg.INPUT.DEEP_IMAGES),
                skip_unreadable=cfg.GUARD.SKIP_CORRUPT_IMAGES > 0 and name not in cfg.DATASETS.TEST,
                detections=None if stock else cfg.TEST.DETECTIONS_PER_IMAGE,
            )
        )
    # Sets that are named one by one need not fit one run.
    together = not arguments.dataset and reports and not any(report.fatal for report in reports)
    return reports, _other_classes(cfg) if together else ""


def _other_classes(cfg: CfgNode) -> str:
    """The message of a training about data sets with different classes; empty if the classes are the same."""
    try:
        match_classes(cfg)
    except UserError as error:
        return str(error)
    return ""


def _take_folder(cfg: CfgNode, folder: str, deep_images: str) -> None:
    """Changes the config to train on the training images in a folder and to test on the others."""
    names = [*find_layout(folder).names(default_name(folder))]
    trained = tuple(name for name in names if name.endswith("_train")) or tuple(names)
    cfg.DATASETS.REGISTER = [folder]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = trained, tuple(name for name in names if name not in trained)
    cfg.INPUT.DEEP_IMAGES = deep_images


def main(arguments: list[str] | None = None) -> int:
    """Prints the reports; returns the exit code."""
    try:
        reports, problem = check(parse_arguments(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for report in reports:
        print(report.text())
        print("=> cannot be used" if report.fatal else "=> can be used")
    if problem:
        print(f"FATAL: {problem}")
    return int(bool(problem) or any(report.fatal for report in reports))


if __name__ == "__main__":
    sys.exit(main())
