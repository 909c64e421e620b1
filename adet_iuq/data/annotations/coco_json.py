"""Users' COCO-format JSON files as training wants them: classes, and one record an image.

detectron2's own reader serves the stock data sets; this one serves the files of users, where annotation ids repeat,
boxes are missing and image ids are words. What can serve is decided in one place, `sanitize`.
"""

import functools
import logging
import os
from typing import Any

from detectron2.structures import BoxMode

from adet_iuq.data.annotations.category_entries import class_numbers
from adet_iuq.data.annotations.file_names import OTHER_SPELLING
from adet_iuq.data.annotations.image_entries import relative_path
from adet_iuq.data.annotations.numbers import sorted_ids
from adet_iuq.data.annotations.parsing import KEEP_BYTES, no_garbage_collection, read_coco_json
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.sanitize import Content, sanitize
from adet_iuq.data.cache import file_identity, folders_unchanged
from adet_iuq.data.images.facts import image_facts
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_warned: set[str] = set()  # files whose flaws were logged; their records are loaded many times in a training


def read_sanitized(json_file: str, image_root: str, *, stock: bool = False) -> tuple[Content, Report]:
    """What `sanitize` makes of a file. Both may be shared with other callers: do not change them.

    Raises:
        UserError: as `read_coco_json`.
    """
    content = read_coco_json(json_file)
    identity = file_identity(json_file)
    if identity[2] > KEEP_BYTES:
        with no_garbage_collection():
            return sanitize(content, _size_of, json_file=json_file, image_root=image_root, stock=stock)
    result = _kept(json_file, image_root, stock, *identity)
    if not folders_unchanged(result[1].folders):
        _kept.cache_clear()
        result = _kept(json_file, image_root, stock, *identity)
    if result[1].sized_from_files:  # the images may change while the file does not
        _kept.cache_clear()
    return result


def _size_of(path: str) -> tuple[int, int]:
    return image_facts(path).upright_size


@functools.lru_cache(maxsize=4)
def _kept(json_file: str, image_root: str, stock: bool, *_identity: Any) -> tuple[Content, Report]:
    content = read_coco_json(json_file)
    return sanitize(content, _size_of, json_file=json_file, image_root=image_root, stock=stock)


def read_categories(json_file: str, image_root: str) -> tuple[list[str], dict[Any, int]]:
    """Class names in the order of their ids, and the map from category id to class number.

    Raises:
        UserError: as `read_coco_json`; or the file has no categories.
    """
    content, _ = read_sanitized(json_file, image_root)
    names, numbers = class_numbers(content.get("categories", []))
    if not names:
        raise UserError(f"{json_file} has no 'categories' (a list of objects with 'id' and 'name'); add them.")
    return names, numbers


def is_lvis_format(path: str) -> bool:
    """Whether the file says what LVIS's metrics need: how frequent each class is, and for each image which classes are
    absent and which are not annotated in full.

    Raises:
        UserError: as `read_coco_json`.
    """
    content = read_coco_json(path)
    categories, images = content.get("categories", []), content["images"]
    return (
        bool(categories and images)
        and all(category.get("frequency") in ("r", "c", "f") for category in categories)
        and all("neg_category_ids" in image and "not_exhaustive_category_ids" in image for image in images)
    )


def load_coco_records(json_file: str, image_root: str) -> list[dict[str, Any]]:
    """One detectron2 record an image, sorted by image id, from a user's file.

    Annotations and images that `sanitize` leaves out are missing here too, and a warning counts them by kind. Entries
    marked `ignore` count as crowds.

    Raises:
        UserError: the file does not parse; an annotation's category is unknown.
    """
    content, report = read_sanitized(json_file, image_root)
    _, contiguous = read_categories(json_file, image_root)
    unknown = report.problems.get("unknown category")
    if unknown:
        raise UserError(unknown.examples[0])
    records = {image["id"]: _image_record(image, image_root) for image in content["images"]}
    for annotation in content.get("annotations", []):
        records[annotation["image_id"]]["annotations"].append(_annotation_record(annotation, contiguous))
    if "annotations" not in content:
        for record in records.values():
            del record["annotations"]
    renamed = report.problems.get(OTHER_SPELLING)
    if (report.left_out or renamed) and json_file not in _warned:
        _warned.add(json_file)
        if report.left_out:
            logger.warning("%s: left out are %s.", json_file, report.left_out)
        if renamed:
            logger.warning("%s: %d x %s. %s", json_file, renamed.count, renamed.kind, renamed.examples[0])
    return [records[i] for i in sorted_ids(records)]


def _image_record(image: dict[str, Any], image_root: str) -> dict[str, Any]:
    return {
        "file_name": os.path.join(image_root, relative_path(image)),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        "annotations": [],
    }


def _annotation_record(annotation: dict[str, Any], contiguous: dict[Any, int]) -> dict[str, Any]:
    return {
        "iscrowd": annotation["iscrowd"],
        "bbox": [float(value) for value in annotation["bbox"]],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "segmentation": annotation["segmentation"],
    }
