"""The one annotation pass: whatever a COCO-format file holds, in the form that training and evaluation can rely on.

The checker prints its report; the training's records and the evaluation's ground truth are taken from its content. So
what is left out of one is left out of the other, and perfect predictions get AP 100.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from adet_iuq.data.annotations.annotation_entries import are_same, sanitize_annotations
from adet_iuq.data.annotations.category_entries import sanitize_categories
from adet_iuq.data.annotations.file_names import OTHER_SPELLING, with_names_on_disk
from adet_iuq.data.annotations.image_entries import SizeOf, sanitize_images
from adet_iuq.data.annotations.numbers import IdTable
from adet_iuq.data.annotations.report import Report

Content = dict[str, Any]
Entry = dict[str, Any]

VERSION = 4  # raise it with every change to what the pass returns


def sanitize(
    content: Content, size_of: SizeOf, *, json_file: str, image_root: str, stock: bool = False
) -> tuple[Content, Report]:
    """Judges the parsed content of a COCO-format file, and mends what has one meaning only.

    Args:
        content: an object whose lists `images`, `annotations` and `categories` (the latter two may be absent) hold
            objects. It is not changed.
        size_of: gives (height, width) of an image file as viewers show it, for images whose entries have no usable size;
            raises UserError where the file does not tell.
        json_file, image_root: for messages, and to find the image files.
        stock: one of detectron2's own data sets: their known flaws in segmentations are warnings.

    Returns:
        The content in canonical form (itself if nothing of it changes; lists without a change share their entries), with
        images under the names that they have on the disk, and the findings. Entries that a fatal finding is about are left
        out of it too.
    """
    judged = open_content(content, size_of, json_file=json_file, image_root=image_root, stock=stock)
    result, report = {**content, "images": judged.images}, judged.report
    if judged.categories is not None:
        result["categories"] = judged.categories
    if judged.annotations is not None:
        found = list(chain.from_iterable(judged.annotations))
        if not report.ids_serve:
            found = [{**entry, "id": number} for number, entry in enumerate(found, start=1)]
        result["annotations"] = found
    return (result if report.mended or OTHER_SPELLING in report.problems else content), report


@dataclass
class Judged:
    """What comes of the pass, for those who cannot hold all annotations at once.

    Attributes:
        images, categories: in canonical form; None: the file has no such list.
        annotations: some thousand at a time, as `sanitize_annotations` gives them; None: the file has no such list.
        report: complete when the annotations are through.
    """

    images: list[Entry]
    categories: list[Entry] | None
    annotations: Iterator[list[Entry]] | None
    report: Report


def open_content(
    content: Mapping[str, Any], size_of: SizeOf, *, json_file: str, image_root: str, stock: bool = False
) -> Judged:
    """As `sanitize`, whose arguments it takes; `annotations` may be any sequence."""
    report = Report(json_file, image_root)
    if not stock:  # detectron2's reader, which serves some of those, takes their names as they are
        content = with_names_on_disk(content, report)
    images, images_by_id = sanitize_images(content["images"], size_of, report)
    report.mended |= not are_same(content["images"], images)
    categories, by_id = None, IdTable()
    if "categories" in content:
        categories, by_id = sanitize_categories(content["categories"], report)
        report.mended |= not are_same(content["categories"], categories)
    annotations: Iterator[list[Entry]] | None = None
    if "annotations" in content and content.get("categories"):
        annotations = sanitize_annotations(content["annotations"], images_by_id, by_id, report, stock)
    elif "annotations" in content:
        report.annotations = len(content["annotations"])
        report.mended |= report.annotations > 0
        advice = "Add the list 'categories' with 'id' and 'name'."
        report.add("no categories", json_file, advice, fatal=True)
        annotations = iter(())
    return Judged(images, categories, annotations, report)
