"""COCO-format JSON files as training wants them: classes, and one record an image.

detectron2's own reader stumbles where annotation ids repeat, boxes are missing and image ids are words. What can serve is
decided in one place, `sanitize`.
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

_warned: set[str] = set()  # files whose flaws were logged; their records are loaded many times in a training


def read_sanitized(json_file: str, image_root: str, *, stock: bool = False) -> tuple[Content, Report]:
    """All that `sanitize` makes of a file, for those whom `digest_of` does not tell enough; the file is read anew.

    Raises:
        UserError: as `read_coco_json`.
    """
    content = read_coco_json(json_file)
    with no_garbage_collection():
        return sanitize(content, image_facts, json_file=json_file, image_root=image_root, stock=stock)


def read_categories(json_file: str, image_root: str) -> tuple[list[str], dict[Any, int]]:
    """Class names in the order of their ids, and the map from category id to class number.

    Raises:
        UserError: as `read_coco_json`; or the file has no categories.
    """
    digest = digest_of(json_file, image_root).digest
    if not digest.class_names:
        raise UserError(f"{json_file} has no 'categories' (a list of objects with 'id' and 'name'); add them.")
    return digest.class_names, digest.class_numbers


def load_coco_records(json_file: str, image_root: str, *, stock: bool = False) -> Records:
    """One detectron2 record an image, sorted by image id.

    Annotations and images that `sanitize` leaves out are missing here too, and a warning counts them by kind. Entries
    marked `ignore` count as crowds.

    Args:
        json_file, image_root: of a COCO-format file.
        stock: whether it is one of detectron2's own data sets.

    Raises:
        UserError: the file does not parse; an annotation's category is unknown.
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
