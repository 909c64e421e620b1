"""Checks whether the images of a COCO-format file exist, and what the reader will do with them."""

import os
from collections.abc import Sequence
from typing import Any

from adet_iuq.data.annotations.digest import ListedImage
from adet_iuq.data.annotations.file_names import Folders
from adet_iuq.data.annotations.report import SHOWN, Report
from adet_iuq.data.images.check import check_image


def check_image_files(
    records: Sequence[dict[str, Any]],
    images: Sequence[ListedImage],
    report: Report,
    sizes: bool,
    deep_images: str,
    skip_unreadable: bool = False,
) -> None:
    """Adds missing images to the report and, with `sizes`, which opens every image, the findings of `check_image`.

    Args:
        records: N records in detectron2's format.
        images: the file's entry for each of them.
        report: collects the findings; its `image_root` is the folder of the images.
        sizes: whether images are opened.
        deep_images: INPUT.DEEP_IMAGES.
        skip_unreadable: whether a training replaces images that cannot be read, as for `check_image`.
    """
    root = report.image_root
    if "://" in root:
        return
    folders = Folders(root)  # a new listing, because this verdict is about the present state
    missing = 0
    for number, (path, height, width, identity) in enumerate(images):
        full = os.path.join(root, path)
        if not folders.has(path):
            advice = f"Put the files there, or correct the image folder ({root})."
            near = folders.near(path) if missing < SHOWN else []  # this searches all names of a folder
            missing += 1
            there = f"; there is {', '.join(near)}" if near else ""
            report.add("missing image", f"{full} (image id {identity}){there}", advice, fatal=True)
        elif sizes:
            entry = {"height": height, "width": width}
            check_image(full, entry, records[number].get("annotations", []), report, deep_images, skip_unreadable)
    report.folders = folders.times
