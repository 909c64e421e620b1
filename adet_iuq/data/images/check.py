"""Checks an image file by its header and its end: what will the reader do with it?"""

from collections.abc import Iterable, Mapping
from typing import Any

from adet_iuq.data.annotations.image_entries import report_swapped
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.images.deep import Depth
from adet_iuq.data.images.facts import ImageFacts, image_facts
from adet_iuq.data.images.opening import ImageTooLargeError
from adet_iuq.data.images.orientation import STORED, SWAPPED, UNCLEAR, frame_of, size_problem
from adet_iuq.data.images.reading import read_image
from adet_iuq.data.images.wholeness import check_whole
from adet_iuq.errors import UserError


def check_image(
    path: str,
    entry: Mapping[str, Any],
    annotations: Iterable[Mapping[str, Any]],
    report: Report,
    deep_images: str = "dtype",
    skip_unreadable: bool = False,
) -> None:
    """Adds everything unusual about an image to the report, in the reader's words if the reader refuses it.

    Args:
        path: the path of the image, which exists.
        entry: its entry in the JSON file; if that has `height` and `width`, they are compared with the image's.
        annotations: the annotations of the image, in COCO's format.
        report: collects the findings.
        deep_images: INPUT.DEEP_IMAGES. Pixels are read only if it may refuse them for their values.
        skip_unreadable: whether a training replaces images that cannot be read (GUARD.SKIP_CORRUPT_IMAGES).
    """
    try:
        facts = image_facts(path)
        check_whole(path)
    except ImageTooLargeError as error:
        report.add("image too large", str(error), "Training and evaluation stop at it.", fatal=True)
        return
    except UserError as error:
        advice = (
            "They are damaged, or of a kind that cannot be read: replace or convert them, or take them off the list."
        )
        if skip_unreadable:
            advice = "They are damaged, or of a kind that cannot be read; GUARD.SKIP_CORRUPT_IMAGES lets training pass."
        report.add("unreadable image", str(error), advice, fatal=not skip_unreadable)
        return
    if facts.depth is not None:
        _check_depth(facts, facts.depth, deep_images, report)
    if entry.get("height") is not None and entry.get("width") is not None:
        _check_frame(facts, (entry["height"], entry["width"]), annotations, report)


def _check_depth(facts: ImageFacts, depth: Depth, deep_images: str, report: Report) -> None:
    if deep_images == "refuse" or (deep_images == "dtype" and depth.kind == "float"):
        try:
            read_image(facts.path, deep_images=deep_images)
        except UserError as error:
            report.add("deep image refused", str(error), "Training and evaluation refuse it.", fatal=True)
            return
    advice = "INPUT.DEEP_IMAGES decides how such values are scaled to 8 bits, or whether they are refused."
    report.add("deep image", f'{facts.path}: one channel of {depth} values (mode "{facts.mode}")', advice)


def _check_frame(
    facts: ImageFacts, claimed: tuple[Any, Any], annotations: Iterable[Mapping[str, Any]], report: Report
) -> None:
    frame = frame_of(facts, claimed, annotations)
    turn = f"{facts.path}: EXIF orientation {facts.orientation}"
    if frame is None:
        report.add("size disagrees", size_problem(facts, claimed), "Training and evaluation refuse it.", fatal=True)
    elif frame == STORED:
        report.add(
            "annotated as stored",
            f"{turn}, its entry has the size of the pixels as stored",
            "These images are used as they are stored, without the turn that viewers make.",
        )
    elif frame == UNCLEAR:
        report.add(
            "orientation unclear",
            f"{turn}, the same size as stored and upright",
            "These images are used upright, as viewers show them. Look at pictures of some (tools/visualize_results.py): "
            "if the masks are turned, save the images without EXIF.",
        )
    elif frame == SWAPPED:
        report_swapped(facts.path, facts.upright_size, report)
