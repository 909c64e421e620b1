"""Whether the images of a COCO-format file are there, and what the reader will do with them."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from adet_iuq.data.annotations.digest import ListedImage
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.cache import folder_time
from adet_iuq.data.images.check import check_image


def check_image_files(
    records: Sequence[dict[str, Any]], images: Sequence[ListedImage], report: Report, sizes: bool, deep_images: str
) -> None:
    """Adds images that are missing to the report; with `sizes`, which opens every image, also what `check_image` finds.

    Args:
        records: N, in detectron2's format.
        images: what the file lists for each of them.
        report: takes the findings; its `image_root` is where the images lie.
        sizes: whether images are opened.
        deep_images: INPUT.DEEP_IMAGES.
    """
    root = report.image_root
    if "://" in root:
        return
    present = _present_files(root, (image[0] for image in images), report.folders)
    for number, (path, height, width, identity) in enumerate(images):
        full = os.path.join(root, path)
        if os.path.normpath(path) not in present:
            advice = f"Put the files there, or correct the image folder ({root})."
            report.add("missing image", f"{full} (image id {identity})", advice, fatal=True)
        elif sizes:
            entry = {"height": height, "width": width}
            check_image(full, entry, records[number].get("annotations", []), report, deep_images)


def _present_files(root: str, paths: Iterable[str], times: dict[str, int]) -> set[str]:
    """Those of the normalised relative paths that are files; one listing a folder instead of one call an image.

    Notes the time of every folder in `times`.
    """
    wanted: dict[str, set[str]] = {}
    for path in paths:
        path = os.path.normpath(path)
        wanted.setdefault(os.path.dirname(path), set()).add(path)
    present: set[str] = set()
    for folder, names in wanted.items():
        full = os.path.abspath(os.path.join(root, folder))
        times[full] = folder_time(full)
        try:
            with os.scandir(full) as found:
                present.update(names & {os.path.join(folder, item.name) for item in found if item.is_file()})
        except (OSError, ValueError):  # ValueError: a name with a null character
            continue
    return present
