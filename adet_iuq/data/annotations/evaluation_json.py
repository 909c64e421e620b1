"""Makes a copy of a user's JSON file that pycocotools can evaluate.

pycocotools needs for every annotation a unique positive id, `iscrowd`, an area (a ground truth with id 0 counts as
never found) and a segmentation that decodes; and ids of images and categories that NumPy can sort. If a file has all of
that, and training leaves nothing of it out, the file itself is used.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adet_iuq.data.annotations.coco_json import read_sanitized
from adet_iuq.data.annotations.digest_cache import digest_of
from adet_iuq.data.annotations.numbers import sortable_together, sorted_ids
from adet_iuq.data.annotations.parsing import is_plain_utf8
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)

Content = dict[str, Any]

ORIGINAL_ID = "original_id"  # the id in the user's file, for entries of a copy that got a new number
_announced: set[str] = set()  # files whose mended copy was logged; a training builds evaluators many times


def evaluation_json(json_file: str, folder: str, *, image_root: str | None = None) -> str:
    """Returns `json_file` if pycocotools can evaluate with it, otherwise the path of a mended copy in `folder`.

    The copy is the result of `sanitize`, which training uses as well. If ids of images or categories mix numbers and
    words, they get new numbers (`evaluation_numbers`), and the entries keep the old ids as ORIGINAL_ID.

    Args:
        json_file: the path of the user's file.
        folder: the folder for the copy.
        image_root: the folder of the images; None: that of the file.

    Raises:
        UserError: the file does not parse, or a copy is needed and the folder cannot be written.
    """
    root = os.path.dirname(json_file) if image_root is None else image_root
    digest = digest_of(json_file, root).digest
    serve = sortable_together(image[3] for image in digest.images) and sortable_together(digest.class_numbers)
    if serve and not digest.report.mended and is_plain_utf8(json_file):
        return json_file
    content, _ = read_sanitized(json_file, root)
    mended = sortable(sortable(content, "images", "image_id"), "categories", "category_id")
    copy = Path(folder).absolute() / "ground_truth.json"
    try:
        replace_file(copy, lambda file: file.write(json.dumps(mended, default=_text).encode()))
    except UserError as error:
        raise UserError(
            f"{json_file} needs mending before it can be evaluated (tools/check_dataset.py says where), and the mended "
            f"copy cannot be written: {error} Or choose another OUTPUT_DIR."
        ) from error
    if json_file not in _announced:
        _announced.add(json_file)
        logger.warning("%s has flaws that disturb the evaluation; a mended copy serves: %s", json_file, copy)
    return str(copy)


def evaluation_numbers(ids: Iterable[Any]) -> dict[Any, int] | None:
    """Numbers from 1 on for ids that an evaluator cannot sort, in the order of `sorted_ids`; None if it can sort them."""
    ids = list(ids)
    return None if sortable_together(ids) else {i: number for number, i in enumerate(sorted_ids(ids), start=1)}


def _text(counts: Any) -> str:
    """Run lengths in the form of JSON, while pycocotools gives bytes."""
    return str(counts, "ascii")


def sortable(content: Content, section: str, key: str) -> Content:
    """The content, with new ids in one of its sections if an evaluator could not sort the old ones.

    Args:
        content: the result of `sanitize`.
        section: "images" or "categories".
        key: the key by which annotations refer to the section: "image_id" or "category_id".
    """
    numbers = evaluation_numbers(entry["id"] for entry in content.get(section, []))
    if numbers is None:
        return content
    entries = [{**entry, ORIGINAL_ID: entry["id"], "id": numbers[entry["id"]]} for entry in content[section]]
    moved = [{**annotation, key: numbers[annotation[key]]} for annotation in content.get("annotations", [])]
    return {**content, section: entries, **({"annotations": moved} if "annotations" in content else {})}
