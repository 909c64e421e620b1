"""Writes a COCO-format JSON that keeps only chosen images, or only chosen categories, of another one.

python datasets/subset.py --json instances_train2017.json --images 542720 57345 499716 24577 --output four.json
python datasets/subset.py --json instances_train2017.json --categories person --output persons.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def images_subset(data: dict[str, Any], image_ids: Sequence[int]) -> dict[str, Any]:
    """The data set of the chosen images, with only those categories that they show.

    Args:
        data: a COCO-format data set.
        image_ids: the ids of the images to keep, in the wanted order.

    Raises:
        SystemExit: the data set does not have one of the image ids.
    """
    images = {image["id"]: image for image in data["images"]}
    missing = [image_id for image_id in image_ids if image_id not in images]
    if missing:
        raise SystemExit(f"The data set has no image {missing}.")
    annotations = [a for a in data["annotations"] if a["image_id"] in set(image_ids)]
    used = {annotation["category_id"] for annotation in annotations}
    categories = [category for category in data["categories"] if category["id"] in used]
    return {**data, "images": [images[i] for i in image_ids], "annotations": annotations, "categories": categories}


def categories_subset(data: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The data set of the chosen categories, with only those images that show one of them.

    Args:
        data: a COCO-format data set.
        names: the names of the categories to keep.

    Raises:
        SystemExit: the data set does not have one of the categories.
    """
    missing = sorted(set(names) - {category["name"] for category in data["categories"]})
    if missing:
        raise SystemExit(f"The data set has no category {', '.join(missing)}.")
    categories = [category for category in data["categories"] if category["name"] in names]
    kept = {category["id"] for category in categories}
    annotations = [a for a in data["annotations"] if a["category_id"] in kept]
    shown = {annotation["image_id"] for annotation in annotations}
    images = [image for image in data["images"] if image["id"] in shown]
    return {**data, "images": images, "annotations": annotations, "categories": categories}


def main() -> None:
    """Reads the arguments and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the COCO-format data set")
    parser.add_argument("--images", type=int, nargs="+", help="ids of the images to keep")
    parser.add_argument("--categories", nargs="+", help="names of the categories to keep")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    if not args.images and not args.categories:
        parser.error("name --images, --categories or both")
    result = json.loads(args.json.read_text())
    if args.images:
        result = images_subset(result, args.images)
    if args.categories:
        result = categories_subset(result, args.categories)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result))
    print(f"{args.output}: {len(result['images'])} images, {len(result['annotations'])} annotations")


if __name__ == "__main__":
    main()
