r"""Predictions for any images: pictures, and one COCO-format JSON file.

    adet-iuq predict photos/ more/*.jpg --run output/quickstart --output predictions
    adet-iuq predict photo.jpg --config-file output/config.yaml --weights output/model_final.pth --output predictions

`predictions.json` has `images`, `categories` and `annotations`; these carry a `score` and run-length encoded masks.
`adet-iuq demo` also takes videos and cameras. Exit code 1: an image could not be read, was named and left out;
2: nothing could be done; 130: stopped by Ctrl-C.
`python tools/predict.py` is the same program.
"""

import argparse

from adet_iuq.commands.prediction import JSON, PICTURES, Prediction, add_model_options, exit_code
from adet_iuq.inference.images import find_files


def main(words: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = _parser().parse_args(words)

    def work() -> int:
        paths = find_files(args.images)
        return Prediction(args, (PICTURES, JSON)).run(paths, [])

    return exit_code(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or quoted patterns")
    add_model_options(parser)
    return parser
