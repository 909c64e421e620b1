"""Reading COCO-format JSON files: with errors for people, and no stricter than training needs.

detectron2's own reader serves the stock data sets; this one serves the files of users, where annotation ids repeat,
boxes are missing and image ids are words.
"""

import functools
import json
import logging
import os
from collections import defaultdict
from typing import Any

import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from adet_iuq.data.annotations.segmentation import has_area, is_usable_box, rle_problem, segmentation_box, valid_parts
from adet_iuq.data.cache import file_identity
from adet_iuq.data.images.facts import image_facts
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

# Parsed files up to this size are kept for the next reader (registration, checker and loader all want them).
_KEEP_BYTES = 16 << 20


def read_coco_json(path: str) -> dict[str, Any]:
    """The parsed file. It may be shared with other callers: do not change it.

    Raises:
        UserError: the file is missing, cut off, not JSON, or not an object with a list `images`.
    """
    try:
        identity = file_identity(path)
        return _kept(*identity) if identity[2] <= _KEEP_BYTES else _parse(path)
    except FileNotFoundError as error:
        raise UserError(f"JSON file {path} does not exist (working folder: {os.getcwd()}).") from error
    except OSError as error:
        raise UserError(f"JSON file {path} cannot be read: {error.strerror or error}.") from error


@functools.lru_cache(maxsize=2)
def _kept(path: str, _mtime: int, _size: int) -> dict[str, Any]:
    return _parse(path)


def _parse(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        raise UserError(json_error_text(path, error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"JSON file {path} is not UTF-8 text: byte {error.start} is damaged. Copy it again.") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise UserError(f"{path} is not a COCO-format file: it must hold an object with a list 'images'.")
    for section in ("images", "annotations", "categories"):
        entries = content.get(section, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path} is not a COCO-format file: '{section}' must be a list of objects.")
    return content


def json_error_text(path: str, error: json.JSONDecodeError) -> str:
    """What to tell someone whose JSON file does not parse: cut off, or wrong at a place."""
    length = len(error.doc)
    if not error.doc.strip():
        return f"JSON file {path} is empty. Copy or write it again."
    where = f"line {error.lineno}, column {error.colno}"
    # A file that was cut ends inside a string, or within the few characters of the value where parsing stopped.
    if error.msg.startswith("Unterminated string") or length - error.pos <= 12:
        return (
            f"JSON file {path} is cut off at character {length} (last complete part before {where}). "
            "Copy, download or write it again."
        )
    near = error.doc[max(error.pos - 20, 0) : error.pos + 20]
    return f"JSON file {path} is not valid JSON: {error.msg} at {where}, near {near!r}."


def read_categories(path: str) -> tuple[list[str], dict[Any, int]]:
    """Class names in the order of their ids, and the map from category id to class number.

    Raises:
        UserError: as `read_coco_json`; or the file has no categories.
    """
    names: dict[Any, str] = {}
    for category in read_coco_json(path).get("categories", []):
        if "id" in category:
            names.setdefault(category["id"], str(category.get("name", category["id"])))
    if not names:
        raise UserError(f"{path} has no 'categories' (a list of objects with 'id' and 'name'); add them.")
    ids = sorted_ids(names)
    return [names[i] for i in ids], {i: number for number, i in enumerate(ids)}


def sorted_ids(ids: Any) -> list[Any]:
    """Ids sorted, numbers before words, so that a mixture of both has an order too."""
    return sorted(ids, key=lambda i: (isinstance(i, str), i))


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


def relative_path(entry: dict[str, Any]) -> str:
    """Where an image lies below its root: `file_name`, or LVIS's split folder and name."""
    if "file_name" in entry:
        return str(entry["file_name"])
    return "/".join(str(entry["coco_url"]).split("/")[-2:])


def load_coco_records(json_file: str, image_root: str) -> list[dict[str, Any]]:
    """One detectron2 record an image, sorted by image id, from a user's file.

    Annotations that cannot serve (no valid segmentation, a mask without area, an image that the file does not list, an
    id and content met before) are left out and counted in a warning; a box that is missing or wholly outside
    is taken from the segmentation, a missing image size from the image. Entries marked `ignore` count as crowds.

    Raises:
        UserError: the file does not parse; an annotation's category is unknown.
    """
    content = read_coco_json(json_file)
    _, contiguous = read_categories(json_file)
    records: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        if "id" in image and ("file_name" in image or "coco_url" in image) and image["id"] not in records:
            records[image["id"]] = _image_record(image, image_root)
    dropped: dict[str, int] = defaultdict(int)
    seen: dict[Any, dict[str, Any]] = {}
    for annotation in content.get("annotations", []):
        record = records.get(annotation.get("image_id"))
        if record is None:
            dropped["of images not listed"] += 1
            continue
        if annotation.get("category_id") not in contiguous:
            raise UserError(unknown_category_text(json_file, annotation))
        if "id" in annotation and annotation["id"] in seen and seen[annotation["id"]] == annotation:
            dropped["listed twice"] += 1
            continue
        seen[annotation.get("id")] = annotation
        segmentation = _usable(annotation.get("segmentation"), record)
        if segmentation is None:
            dropped["without a valid segmentation"] += 1
        elif not has_area(segmentation, record["height"], record["width"]):
            dropped["whose mask has no area"] += 1
        else:
            record["annotations"].append(_annotation_record(annotation, segmentation, record, contiguous))
    for reason, count in dropped.items():
        logger.warning("%s: %d annotations %s are left out.", json_file, count, reason)
    if "annotations" not in content:
        for record in records.values():
            del record["annotations"]
    return [records[i] for i in sorted_ids(records)]


def unknown_category_text(json_file: str, annotation: dict[str, Any]) -> str:
    """The message for an annotation whose category the file does not define."""
    return (
        f"{json_file}: annotation {annotation.get('id')} has category_id {annotation.get('category_id')!r}, which is "
        "not in 'categories'. Add the category or correct the annotation."
    )


def _image_record(image: dict[str, Any], image_root: str) -> dict[str, Any]:
    file_name = os.path.join(image_root, relative_path(image))
    if "height" not in image or "width" not in image:
        height, width = image_facts(file_name).upright_size
        image = {**image, "height": height, "width": width}
    return {
        "file_name": file_name,
        "height": int(image["height"]),
        "width": int(image["width"]),
        "image_id": image["id"],
        "annotations": [],
    }


def _annotation_record(
    annotation: dict[str, Any], segmentation: Any, image: dict[str, Any], contiguous: dict[Any, int]
) -> dict[str, Any]:
    given = annotation.get("bbox")
    usable = is_usable_box(given, image["height"], image["width"])
    box: list[float] = given if given and usable else segmentation_box(segmentation)
    return {
        "iscrowd": int(bool(annotation.get("iscrowd") or annotation.get("ignore"))),
        "bbox": [float(value) for value in box],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "segmentation": segmentation,
    }


def _usable(segmentation: Any, image: dict[str, Any]) -> Any:
    """Valid polygon parts, or an RLE in the compressed form; None if there is nothing valid."""
    if not isinstance(segmentation, dict):
        return valid_parts(segmentation) or None
    if rle_problem(segmentation, image["height"], image["width"]):
        return None
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, image["height"], image["width"])
    return segmentation
