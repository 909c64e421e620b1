#!/usr/bin/env python
"""Draws a test set's predictions beside its ground truth.

python tools/visualize_results.py --config-file FILE --weights FILE --output FOLDER [KEY VALUE ...]
"""

import argparse
import sys
from pathlib import Path

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import cv2
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from adet_iuq.config import add_project_option, import_projects
from adet_iuq.data import load_dataset
from adet_iuq.data.images.reading import read_record
from adet_iuq.errors import UserError
from adet_iuq.inference import InstancePredictor, inference_config
from adet_iuq.visualization import draw, of_predictions, of_record, side_by_side


def visualize(args: argparse.Namespace) -> None:
    """Writes one PNG per image: input, ground truth, predictions.

    Raises:
        UserError: the config, the weights, the data set or an image is not usable.
    """
    cfg = inference_config(args.config_file, args.weights, args.opts, import_projects(args.project))
    dataset = args.dataset or (cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "")
    if not dataset:
        raise UserError("DATASETS.TEST is empty: name a data set with --dataset.")
    records = load_dataset(dataset)[: args.limit]
    predictor = InstancePredictor(cfg)
    names = MetadataCatalog.get(dataset).get("thing_classes") or []
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    for record in tqdm(records, unit="image"):
        image, record = read_record(record, "BGR", predictor.deep_images)
        predictions = of_predictions(predictor(image), names, args.score_threshold)
        truth = of_record(record, names)
        pictures = {
            f"ground truth ({len(truth.boxes)})": draw(image, truth),
            f"predictions, score >= {args.score_threshold:g} ({len(predictions.boxes)})": draw(image, predictions),
        }
        cv2.imwrite(str(output / f"{Path(record['file_name']).stem}.png"), side_by_side(pictures))
    print(f"{len(records)} pictures in {output}")


def main(words: list[str] | None = None) -> int:
    """Runs the tool; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    add_project_option(parser)
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--dataset", default="", help="default: the first of DATASETS.TEST")
    parser.add_argument("--limit", type=int, default=8, help="number of images (default 8)")
    parser.add_argument("--score-threshold", type=float, default=0.3)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    try:
        visualize(parser.parse_args(words))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
