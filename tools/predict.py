#!/usr/bin/env python
r"""Predictions for any images: pictures, and one COCO-format JSON file.

    python tools/predict.py photos/ more/*.jpg --config-file output/config.yaml --weights output/model_final.pth \
        --output predictions

`predictions.json` has `images`, `categories` and `annotations`; these carry a `score` and run-length encoded masks.
"""

import argparse
import glob
import json
import sys
from pathlib import Path
from typing import Any

import cv2
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from tqdm import tqdm

import adet_iuq.ctrl_c
import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.config import add_project_option, import_projects
from adet_iuq.data.images.opening import IMAGE_SUFFIXES
from adet_iuq.data.images.reading import read_image
from adet_iuq.engine.predictor import Predictor, inference_config
from adet_iuq.errors import UserError
from adet_iuq.visualization import draw, of_predictions


def main(words: list[str] | None = None) -> int:
    """Returns the exit code: 1 if an image could not be read, 2 if nothing could be done."""
    args = _parser().parse_args(words)
    try:
        return predict(args)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def predict(args: argparse.Namespace) -> int:
    """Predicts for all images; those that cannot be read are named and left out.

    Raises:
        UserError: no image, or the model cannot be set up.
    """
    paths = find_images(args.images)
    added = import_projects(args.project)
    predictor = Predictor(inference_config(args.config_file, args.weights, args.opts, added))
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    category_ids = predictor.metadata["category_ids"]
    names = predictor.metadata["thing_classes"]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories(names, category_ids)}
    failed = 0
    for path in tqdm(paths, unit="image"):
        try:
            image = read_image(path, deep_images=predictor.deep_images)
        except UserError as error:
            print(f"Error: {error} It is left out.", file=sys.stderr)
            failed += 1
            continue
        number = len(content["images"]) + 1
        instances = predictor(image)
        picture = output / f"{number:05d}_{path.stem}.png"
        cv2.imwrite(str(picture), draw(image, of_predictions(instances, names, args.score_threshold)))
        height, width = image.shape[:2]
        content["images"].append({"id": number, "file_name": str(path), "width": width, "height": height})
        kept = instances[instances.scores >= args.score_threshold]
        for annotation in instances_to_coco_json(kept, number):
            index = annotation["category_id"]
            annotation |= {
                "id": len(content["annotations"]) + 1,
                "category_id": category_ids.get(index, index),
                "area": annotation["bbox"][2] * annotation["bbox"][3],
                "iscrowd": 0,
            }
            content["annotations"].append(annotation)
    (output / "predictions.json").write_text(json.dumps(content))
    print(f"{len(content['images'])} images, {len(content['annotations'])} instances: {output}/predictions.json")
    return 1 if failed else 0


def find_images(arguments: list[str]) -> list[Path]:
    """Files as they are, the images of folders, and matches of patterns, in order and each once.

    Raises:
        UserError: nothing is found.
    """
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        elif glob.has_magic(argument) and not path.exists():
            found += [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
        else:
            found.append(path)
    if not found:
        raise UserError(f"No image in {', '.join(arguments)}. Known suffixes: {', '.join(IMAGE_SUFFIXES)}.")
    return list(dict.fromkeys(found))


def categories(names: list[str], category_ids: dict[int, int]) -> list[dict[str, Any]]:
    """COCO's list of categories, under the data set's own ids."""
    return [{"id": category_ids.get(index, index), "name": name} for index, name in enumerate(names)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or quoted patterns")
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="of what is drawn and saved (default 0.3)")
    add_project_option(parser)
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return parser


if __name__ == "__main__":
    sys.exit(main())
