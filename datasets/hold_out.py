"""Splits a COCO-format data set at random into a part to train on and one to tune on. Images are not copied.

    python datasets/hold_out.py --json $ADET_IUQ_DATA/nuclei/train.json --output output/nuclei_tune

The folder gets train.json and val.json. Learning rates and strengths are to be chosen on such a part, not on the images that
a result is reported on. If images come in groups that look alike (one patient, one video), split by group instead, as
tune_embryos.py does: a neighbour of a training image is no test.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from subset import images_subset


def split(data: dict[str, Any], share: float, seed: int) -> dict[str, dict[str, Any]]:
    """The two COCO-format parts of `data`, "train" and "val"; images keep their order, and both parts all categories.

    Args:
        data: a COCO-format data set.
        share: the share of the images that "val" gets, above 0 and below 1; each part gets at least one image.
        seed: of the choice.

    Raises:
        SystemExit: the data set has fewer than two images.
    """
    ids = [image["id"] for image in data["images"]]
    if len(ids) < 2:
        raise SystemExit("The data set needs at least two images to be split.")
    count = min(max(round(share * len(ids)), 1), len(ids) - 1)
    held_out = set(random.Random(seed).sample(sorted(ids), count))
    chosen = {"train": [i for i in ids if i not in held_out], "val": [i for i in ids if i in held_out]}
    return {name: {**images_subset(data, part), "categories": data["categories"]} for name, part in chosen.items()}


def _share(text: str) -> float:
    """The share of the command line."""
    share = float(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share above 0 and below 1")
    return share


def main(arguments: list[str] | None = None) -> None:
    """Reads the arguments and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the COCO-format data set")
    parser.add_argument(
        "--share", type=_share, default=0.2, help="of the images that val.json gets (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write to")
    args = parser.parse_args(arguments)
    if not args.json.is_file():
        parser.error(f"{args.json} does not exist")
    parts = split(json.loads(args.json.read_text()), args.share, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        path = args.output / f"{name}.json"
        path.write_text(json.dumps(part))
        print(f"{path}: {len(part['images'])} images, {len(part['annotations'])} annotations")


if __name__ == "__main__":
    main()
