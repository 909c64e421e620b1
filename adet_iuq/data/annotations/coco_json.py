"""Reads COCO-format JSON files in the form that training needs: the classes, and one record per image.

detectron2's own reader fails if annotation ids repeat, boxes are missing or image ids are words. The module `sanitize`
alone decides what is usable.
"""

import logging
from typing import Any

from adet_iuq.data.annotations.digest_cache import digest_of
from adet_iuq.data.annotations.file_names import OTHER_SPELLING
from adet_iuq.data.annotations.parsing import no_garbage_collection, read_coco_json
from adet_iuq.data.annotations.records import Records
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.sanitize import Content, sanitize
from adet_iuq.data.images.facts import image_facts
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_warned: set[str] = set()  # files whose flaws were logged; a training loads their records many times


def read_sanitized(json_file: str, image_root: str, *, stock: bool = False) -> tuple[Content, Report]:
    """The whole result of `sanitize` for a file, which is read again. Most callers need only `digest_of`.

    Raises:
        UserError: `read_coco_json` refuses the file.
    """
    content = read_coco_json(json_file)
    with no_garbage_collection():
        return sanitize(content, image_facts, json_file=json_file, image_root=image_root, stock=stock)


def read_categories(json_file: str, image_root: str) -> tuple[list[str], dict[Any, int]]:
    """Class names in the order of their ids, and the map from category id to class number.

    Raises:
        UserError: `read_coco_json` refuses the file, or it has no categories.
    """
    digest = digest_of(json_file, image_root).digest
    if not digest.class_names:
        raise UserError(f"{json_file} has no 'categories' (a list of objects with 'id' and 'name'); add them.")
    return digest.class_names, digest.class_numbers


def load_coco_records(json_file: str, image_root: str, *, stock: bool = False) -> Records:
    """One detectron2 record per image, sorted by image id.

    Annotations and images that `sanitize` leaves out are missing here too, and a warning counts them by kind. Entries
    marked `ignore` count as crowds.

    Args:
        json_file: the path of a COCO-format file.
        image_root: the folder of its images.
        stock: whether it is one of detectron2's own data sets.

    Raises:
        UserError: the file does not parse, or an annotation's category is unknown.
    """
    kept = digest_of(json_file, image_root, stock=stock)
    report = kept.digest.report
    unknown = report.problems.get("unknown category")
    if unknown:
        raise UserError(unknown.examples[0])
    renamed = report.problems.get(OTHER_SPELLING)
    if (report.left_out or renamed) and json_file not in _warned:
        _warned.add(json_file)
        if report.left_out:
            logger.warning("%s: left out are %s.", json_file, report.left_out)
        if renamed:
            logger.warning("%s: %d x %s. %s", json_file, renamed.count, renamed.kind, renamed.examples[0])
    return Records(kept.digest, kept.texts, image_root)
