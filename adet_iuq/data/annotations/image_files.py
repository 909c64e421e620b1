"""Whether the images of a COCO-format file are there, and of the size that it says."""

import os
from collections.abc import Iterable
from typing import Any

from adet_iuq.data.annotations.image_entries import relative_path
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.cache import folder_time
from adet_iuq.data.images.size import upright_size


def check_image_files(entries: list[dict[str, Any]], report: Report, sizes: bool) -> None:
    """Adds images that are missing to the report; with `sizes`, which opens every image, also damaged ones and those of
    another size than their (sanitised) entry says."""
    root = report.image_root
    if "://" in root:
        return
    present = _present_files(root, map(relative_path, entries), report.folders)
    for entry in entries:
        path = relative_path(entry)
        full = os.path.join(root, path)
        if os.path.normpath(path) not in present:
            advice = f"Put the files there, or correct the image folder ({root})."
            report.add("missing image", f"{full} (image id {entry['id']})", advice, fatal=True)
        elif sizes:
            _check_size(full, entry, report)


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


def _check_size(path: str, entry: dict[str, Any], report: Report) -> None:
    try:
        width, height = upright_size(path)
    except Exception as error:  # Pillow raises many types on damaged files
        advice = "Training stops at them, unless GUARD.SKIP_CORRUPT_IMAGES lets it pass."
        report.add("damaged image", f"{path}: {type(error).__name__}: {error}", advice)
        return
    claimed = (entry["width"], entry["height"])
    if claimed == (height, width) != (width, height):
        report.add(
            "sides swapped", f"{path} is {width} x {height}, its entry says {claimed}", "Training transposes it."
        )
    elif claimed != (width, height):
        advice = "Training and its evaluation leave the image out; correct width and height in the JSON file."
        report.disagreeing.add(entry["id"])
        report.add("size disagrees", f"{path} is {width} x {height}, its entry says {claimed}", advice)
