"""Images with more objects than an evaluation counts detections: the rest can never be found, and AP does not say why."""

from collections import Counter
from typing import Any

from adet_iuq.data.annotations.image_entries import relative_path
from adet_iuq.data.annotations.report import Report


def crowded_images(content: dict[str, Any], counted: int) -> list[tuple[dict[str, Any], int]]:
    """Entries of images with more than `counted` objects, crowds left out, and their number of objects.

    Args:
        content: as `sanitize` returns it.
        counted: detections of an image that an evaluation counts.
    """
    objects = Counter(a["image_id"] for a in content.get("annotations", []) if not a["iscrowd"])
    return [(image, objects[image["id"]]) for image in content["images"] if objects[image["id"]] > counted]


def report_crowded_images(content: dict[str, Any], counted: int, report: Report) -> None:
    """Adds these images to the report."""
    found = crowded_images(content, counted)
    if found:
        most = max(number for _, number in found)
        advice = (
            f"An evaluation counts the best {counted} detections of an image, so that the others are never found. Evaluate "
            f"with TEST.DETECTIONS_PER_IMAGE {most}."
        )
        for image, number in found:
            report.add("more objects than detections", f"{relative_path(image)}: {number} objects", advice)
