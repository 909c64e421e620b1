"""A copy of a user's JSON file that pycocotools evaluates without stumbling.

pycocotools needs a unique positive id and an area for every annotation (a ground truth with id 0 counts as never found),
a segmentation that decodes, and image ids that occur once. Files in which all of that holds are used as they are.
"""

import json
import logging
from collections.abc import Set
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util

from adet_iuq.data.annotations.coco_json import read_coco_json
from adet_iuq.data.annotations.segmentation import is_usable_box, rle_problem, segmentation_box, valid_parts
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)

_announced: set[str] = set()  # files whose mending was logged; an evaluator is built many times in a training


def evaluation_json(json_file: str, folder: str, left_out: Set[Any] = frozenset()) -> str:
    """`json_file` itself if pycocotools can evaluate with it, else the path of a mended copy in `folder`.

    The copy drops annotations without a valid segmentation or a listed image, and images and annotations listed twice;
    it adds missing ids, areas and boxes (also where a box is wholly outside). It also drops the images whose ids are in
    `left_out`, on which nothing is predicted.

    Raises:
        UserError: the file does not parse; a copy is needed and the folder cannot be written.
    """
    content = read_coco_json(json_file)
    if "annotations" not in content:
        return json_file
    mended = _mended(content, left_out)
    if mended is None:
        return json_file
    copy = Path(folder).absolute() / "ground_truth.json"
    try:
        replace_file(copy, lambda file: file.write(json.dumps(mended).encode()))
    except UserError as error:
        raise UserError(
            f"{json_file} needs mending before it can be evaluated (tools/check_dataset.py says where), and the mended "
            f"copy cannot be written: {error} Or choose another OUTPUT_DIR."
        ) from error
    if json_file not in _announced:
        _announced.add(json_file)
        logger.warning("%s has flaws that disturb the evaluation; a mended copy serves: %s", json_file, copy)
    return str(copy)


def _mended(content: dict[str, Any], left_out: Set[Any]) -> dict[str, Any] | None:
    """A mended shallow copy of the file's content; None if nothing is wrong."""
    images: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        if "id" in image and image["id"] not in left_out:
            images.setdefault(image["id"], image)
    annotations: list[dict[str, Any]] = []
    seen: dict[Any, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        image = images.get(annotation.get("image_id"))
        if image is None or seen.get(annotation.get("id")) == annotation:
            continue
        complete = _complete(annotation, image)
        if complete is not None:
            seen[annotation.get("id")] = annotation
            annotations.append(complete)
    ids = [annotation.get("id") for annotation in annotations]
    ids_fine = all(isinstance(i, int) and i > 0 for i in ids) and len(set(ids)) == len(ids)
    if (
        ids_fine
        and len(images) == len(content["images"])
        and len(annotations) == len(content["annotations"])
        and all(a is b for a, b in zip(annotations, content["annotations"], strict=True))
    ):
        return None
    if not ids_fine:
        annotations = [{**annotation, "id": number + 1} for number, annotation in enumerate(annotations)]
    return {**content, "images": list(images.values()), "annotations": annotations}


def _complete(annotation: dict[str, Any], image: dict[str, Any]) -> dict[str, Any] | None:
    """The annotation itself if whole; a completed copy; None without a valid segmentation."""
    segmentation = annotation.get("segmentation")
    usable: Any
    rle: Any
    height, width = image.get("height"), image.get("width")
    if isinstance(segmentation, dict):
        if height is None or width is None or rle_problem(segmentation, height, width):
            return None
        usable, rle = segmentation, segmentation
        if isinstance(segmentation["counts"], list):
            rle = mask_util.frPyObjects(segmentation, height, width)
    else:
        usable = rle = valid_parts(segmentation)
        if not usable:
            return None
    changes: dict[str, Any] = {}
    if isinstance(segmentation, list) and len(usable) != len(segmentation):
        changes["segmentation"] = usable
    if not is_usable_box(annotation.get("bbox"), height, width):
        changes["bbox"] = segmentation_box(rle)
    if not isinstance(annotation.get("area"), int | float):
        changes["area"] = _area(rle, height, width)
    if annotation.get("ignore") and not annotation.get("iscrowd"):
        changes["iscrowd"] = 1
    return {**annotation, **changes} if changes else annotation


def _area(segmentation: Any, height: int | None, width: int | None) -> float:
    if isinstance(segmentation, dict):
        return float(mask_util.area(segmentation))
    if height is None or width is None:
        box = segmentation_box(segmentation)
        return box[2] * box[3]
    return float(mask_util.area(mask_util.merge(mask_util.frPyObjects(segmentation, height, width))))
