"""The one annotation pass: whatever a COCO-format file holds, in the form that training and evaluation can rely on.

The checker prints its report; the training's records and the evaluation's ground truth are taken from its content. So
what is left out of one is left out of the other, and perfect predictions get AP 100.
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

VERSION = 8  # raise it with every change to what the pass returns


def sanitize(
    content: Content, facts_of: FactsOf, *, json_file: str, image_root: str, stock: bool = False
) -> tuple[Content, Report]:
    """Judges the parsed content of a COCO-format file, and mends what has one meaning only.

    Args:
        content: an object whose lists `images`, `annotations` and `categories` (the latter two may be absent) hold
            objects. It is not changed.
        facts_of: gives the facts of an image file, for images whose entries have no usable size, or a size that their
            annotations speak against; raises UserError where the file does not tell.
        json_file, image_root: for messages, and to find the image files.
        stock: one of detectron2's own data sets: their known flaws in segmentations are warnings.

    Returns:
        The content in canonical form (itself if nothing of it changes; lists without a change share their entries), with
        images under the names that they have on the disk, and the findings. Entries that a fatal finding is about are left
        out of it too.
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
    """What comes of the pass, for those who cannot hold all annotations at once.

    Attributes:
        images, categories: in canonical form; None: the file has no such list.
        annotations: some thousand at a time, as `sanitize_annotations` gives them; None: the file has no such list.
        report, sides: complete when the annotations are through.
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
    """The pass as `sanitize` makes it, for those who cannot hold all annotations at once.

    Where annotations and image files agree that entries swap width and height, a second pass has the true sizes: what was
    judged in a wrong frame before them is judged anew.

    Args:
        content, facts_of, json_file, image_root, stock: as `sanitize`; `annotations` may be any sequence.
        take: goes through the annotations and makes something of them, from the beginning at each call.

    Returns:
        What was judged, and what the last call of `take` made of it.
    """
    judged = _open(content, facts_of, json_file, image_root, stock)
    found = take(judged)
    swapped = [image["id"] for image in judged.sides.suspects() if _is_swapped(image, facts_of, image_root)]
    if swapped:
        judged = _open(content, facts_of, json_file, image_root, stock, swapped)
        found = take(judged)
    return judged, found


def _is_swapped(image: Entry, facts_of: FactsOf, image_root: str) -> bool:
    """Whether an image file has the transposed size of its entry, with no EXIF turn that could explain it."""
    try:
        facts = facts_of(os.path.join(image_root, relative_path(image)))
    except UserError:  # the check of the image files names it
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
    """Images and categories, judged; `swapped` are the ids of images whose sides are to be swapped."""
    report, sides = Report(json_file, image_root), Sides()
    if not stock:  # detectron2's reader, which serves some of those, takes their names as they are
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
