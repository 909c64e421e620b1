"""The annotation pass: it turns any COCO-format file into the form that training and evaluation can rely on.

The checker prints its report; the training's records and the evaluation's ground truth are made from its content. So
both leave out the same things, and perfect predictions get AP 100.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from adet_iuq.data.annotations.annotation_entries import are_same, sanitize_annotations
from adet_iuq.data.annotations.category_entries import sanitize_categories
from adet_iuq.data.annotations.file_names import OTHER_SPELLING, with_names_on_disk
from adet_iuq.data.annotations.image_entries import FactsOf, relative_path, sanitize_images
from adet_iuq.data.annotations.numbers import IdTable
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.sides import Sides
from adet_iuq.errors import UserError

Content = dict[str, Any]
Entry = dict[str, Any]
T = TypeVar("T")

VERSION = 8  # to be raised with every change to the result of the pass


def sanitize(
    content: Content, facts_of: FactsOf, *, json_file: str, image_root: str, stock: bool = False
) -> tuple[Content, Report]:
    """Judges the parsed content of a COCO-format file, and corrects everything that can only have one meaning.

    Args:
        content: an object whose lists `images`, `annotations` and `categories` (the last two may be absent) hold
            objects. It is not changed.
        facts_of: the function that gives the facts of an image file, for images whose entries have no usable size, or a
            size that contradicts their annotations; it raises UserError if the file has no size either.
        json_file: the path of the file, for messages.
        image_root: the folder of the image files.
        stock: whether it is one of detectron2's own data sets, whose known flaws in segmentations are only warnings.

    Returns:
        The content in canonical form, with images under their names on the disk, and the findings. If nothing changes,
        the content is the given one; lists without a change share their entries with it. Entries with a fatal finding
        are left out too.
    """
    judged, found = collect(
        content, facts_of, _all_annotations, json_file=json_file, image_root=image_root, stock=stock
    )
    result, report = {**content, "images": judged.images}, judged.report
    if judged.categories is not None:
        result["categories"] = judged.categories
    if judged.annotations is not None:
        if not report.ids_serve:
            found = [{**entry, "id": number} for number, entry in enumerate(found, start=1)]
        result["annotations"] = found
    return (result if report.mended or OTHER_SPELLING in report.problems else content), report


def _all_annotations(judged: "Judged") -> list[Entry]:
    return list(chain.from_iterable(judged.annotations or ()))


@dataclass
class Judged:
    """The result of the pass, for callers that cannot hold all annotations at once.

    Attributes:
        images: the images in canonical form; None: the file has no such list.
        categories: the categories in canonical form; None: the file has no such list.
        annotations: the annotations, some thousand at a time, by `sanitize_annotations`; None: the file has no such list.
        report: the findings, complete when all annotations are through.
        sides: what annotations show about the sides of images, complete at the same time.
    """

    images: list[Entry]
    categories: list[Entry] | None
    annotations: Iterator[list[Entry]] | None
    report: Report
    sides: Sides


def collect(
    content: Mapping[str, Any],
    facts_of: FactsOf,
    take: Callable[[Judged], T],
    *,
    json_file: str,
    image_root: str,
    stock: bool = False,
) -> tuple[Judged, T]:
    """Makes the pass of `sanitize`, for callers that cannot hold all annotations at once.

    If annotations and image files agree that entries swap width and height, a second pass uses the true sizes, so that
    everything is judged in the right frame.

    Args:
        content: the content as for `sanitize`; `annotations` may be any sequence.
        facts_of: the function that gives the facts of an image file, as for `sanitize`.
        take: the function that consumes the annotations, from the beginning at each call, and returns a result.
        json_file: the path of the file, for messages.
        image_root: the folder of the image files.
        stock: whether it is one of detectron2's own data sets, as for `sanitize`.

    Returns:
        The judged content, and the result of the last call of `take`.
    """
    judged = _open(content, facts_of, json_file, image_root, stock)
    found = take(judged)
    swapped = [image["id"] for image in judged.sides.suspects() if _is_swapped(image, facts_of, image_root)]
    if swapped:
        judged = _open(content, facts_of, json_file, image_root, stock, swapped)
        found = take(judged)
    return judged, found


def _is_swapped(image: Entry, facts_of: FactsOf, image_root: str) -> bool:
    """Whether an image file has the transposed size of its entry, and no EXIF turn that could explain it."""
    try:
        facts = facts_of(os.path.join(image_root, relative_path(image)))
    except UserError:  # the check of the image files will report it
        return False
    return facts.stored_size == facts.upright_size == (image["width"], image["height"])


def _open(
    content: Mapping[str, Any],
    facts_of: FactsOf,
    json_file: str,
    image_root: str,
    stock: bool,
    swapped: Collection[Any] = (),
) -> Judged:
    """Judges images and categories; `swapped` are the ids of images whose sides are to be swapped."""
    report, sides = Report(json_file, image_root), Sides()
    if not stock:  # detectron2's reader, which reads some of those, uses their names unchanged
        content = with_names_on_disk(content, report)
    images, images_by_id = sanitize_images(content["images"], facts_of, report, swapped)
    report.mended |= not are_same(content["images"], images)
    categories, by_id = None, IdTable()
    if "categories" in content:
        categories, by_id = sanitize_categories(content["categories"], report)
        report.mended |= not are_same(content["categories"], categories)
    annotations: Iterator[list[Entry]] | None = None
    if "annotations" in content and content.get("categories"):
        annotations = sanitize_annotations(content["annotations"], images_by_id, by_id, report, sides, stock)
    elif "annotations" in content:
        report.annotations = len(content["annotations"])
        report.mended |= report.annotations > 0
        advice = "Add the list 'categories' with 'id' and 'name'."
        report.add("no categories", json_file, advice, fatal=True)
        annotations = iter(())
    return Judged(images, categories, annotations, report, sides)
