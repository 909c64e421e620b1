"""Splits the training images of "embryos" for tuning, so that nothing is tuned on its val. Images are not copied.

    python datasets/tune_embryos.py     # writes output/embryos_tune/{train,val}.json

Whole recording sessions are held out, 33 of the 154 images (21 %). configs/Studies/Base-embryos-tune.yaml reads the files.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from preparation import data_folder
from prepare_embryos import session_of
from subset import images_subset

from adet_iuq.errors import EXIT_USER_ERROR, UserError

TUNE_VAL_SESSIONS = ("1d30", "2d30")


def tuning_split(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The two COCO-format parts, "train" and "val", of the training set `data`; images say their session in `source`."""
    held_out = {image["id"]: session_of(image["source"]) in TUNE_VAL_SESSIONS for image in data["images"]}
    return {
        split: images_subset(data, [image_id for image_id, held in held_out.items() if held == (split == "val")])
        for split in ("train", "val")
    }


def main(arguments: list[str] | None = None) -> int:
    """Reads the arguments and writes both files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="the training set (default: $ADET_IUQ_DATA/embryos/train.json)")
    parser.add_argument("--output", type=Path, default="output/embryos_tune", help="folder (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        source = args.json or data_folder("embryos") / "train.json"
        if not source.is_file():
            raise UserError(f"{source} does not exist; datasets/README.md says how to make it.")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    args.output.mkdir(parents=True, exist_ok=True)
    for split, part in tuning_split(json.loads(source.read_text())).items():
        path = args.output / f"{split}.json"
        path.write_text(json.dumps(part))
        print(f"{path}: {len(part['images'])} images, {len(part['annotations'])} annotations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
