"""Converts YOLO-segmentation labels to a COCO-format file, once, in the cache folder."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from adet_iuq.data.annotations.geometry import WRITTEN_AT
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.yolo_labels import read_objects, to_annotation
from adet_iuq.data.annotations.yolo_yaml import DataYaml, label_files
from adet_iuq.data.cache import cache_folder, file_identity, make_folder_once
from adet_iuq.data.images.facts import image_facts
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_VERSION = 2  # to be raised with every change to the written files
_ANNOTATIONS = "annotations.json"


def coco_files(data: DataYaml, split: str) -> tuple[str, str]:
    """The COCO-format file of a split, and the folder that its image names are relative to.

    It is made again if an image or a label file is added, removed or changed. Every process may call it: the first one
    makes the file, and the others wait.

    Raises:
        UserError: images or labels are missing; a line is no object with an outline; an image cannot be read; or the
            cache cannot be written.
    """
    images = data.images(split)
    labels, orphans = label_files(images)
    mark = _mark(data, images, labels)
    if not labels:
        raise UserError(
            f"{data.path}: no image of '{split}' has a label file. For {images[0]} it is looked for in the folder 'labels' "
            "in the place of 'images', and beside the image, under the image's name with the suffix .txt."
        )
    root = os.path.commonpath([os.path.dirname(image) for image in images])
    folder = cache_folder() / "yolo" / f"{Path(data.path).parent.name}-{split}-{mark}"

    def fill(partial: Path) -> None:
        logger.info("Converting the labels of '%s' in %s into %s", split, data.path, folder)
        if orphans:
            logger.warning(
                "%s: %d label files of '%s' have no image, for example %s.", data.path, len(orphans), split, orphans[0]
            )
        (partial / _ANNOTATIONS).write_text(json.dumps(_converted(data, images, labels, root)), encoding="utf-8")

    make_folder_once(folder, fill)
    return str(folder / _ANNOTATIONS), root


def _mark(data: DataYaml, images: list[str], labels: dict[str, str]) -> str:
    """A text that changes with everything that the conversion reads: class names, and all files by time and size."""
    try:
        files = [
            (*file_identity(image), *file_identity(labels[image])) if image in labels else file_identity(image)
            for image in images
        ]
    except FileNotFoundError as error:
        raise UserError(f"{data.path} lists the image {error.filename}, which does not exist.") from error
    return hashlib.blake2b(
        repr((_VERSION, data.names, files)).encode("utf-8", "surrogateescape"), digest_size=8
    ).hexdigest()


def _converted(data: DataYaml, images: list[str], labels: dict[str, str], root: str) -> dict[str, Any]:
    """The content of the COCO-format file, whose category ids are YOLO's class numbers."""
    report = Report(data.path, root, images=len(images))
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, path in enumerate(images, start=1):
        try:
            height, width = image_facts(path).upright_size
        except UserError as error:
            report.add("image that cannot be read", str(error), "Replace it, or take it away.", fatal=True)
            continue
        entries.append({"id": image_id, "file_name": os.path.relpath(path, root), "height": height, "width": width})
        if path not in labels:
            continue
        text = Path(labels[path]).read_text(encoding="utf-8-sig", errors="replace")
        for place, category, points in read_objects(text, labels[path], data.names, report):
            identity = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, WRITTEN_AT: place}
            annotations.append(identity | to_annotation(points, height, width))
    report.annotations = report.usable = len(annotations)
    report.raise_if_fatal()
    categories = [{"id": number, "name": name} for number, name in sorted(data.names.items())]
    return {"images": entries, "annotations": annotations, "categories": categories}
