"""The one annotation pass: whatever a COCO-format file holds, in the form that training and evaluation can rely on.

The checker prints its report; the training's records and the evaluation's ground truth are taken from its content. So
what is left out of one is left out of the other, and perfect predictions get AP 100.
"""

from typing import Any

from adet_iuq.data.annotations.annotation_entries import sanitize_annotations
from adet_iuq.data.annotations.category_entries import sanitize_categories
from adet_iuq.data.annotations.file_names import with_names_on_disk
from adet_iuq.data.annotations.image_entries import SizeOf, sanitize_images
from adet_iuq.data.annotations.report import Report

Content = dict[str, Any]

VERSION = 2  # raise it with every change to what the pass returns


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
    report = Report(json_file, image_root)
    if not stock:  # detectron2 reads those, and takes their names as they are
        content = with_names_on_disk(content, report)
    images, images_by_id = sanitize_images(content["images"], size_of, report)
    result = {**content, "images": images}
    if "categories" in content:
        result["categories"], categories = sanitize_categories(content["categories"], report)
    if "annotations" in content:
        if not content.get("categories"):
            report.annotations = len(content["annotations"])
            advice = "Add the list 'categories' with 'id' and 'name'."
            report.add("no categories", json_file, advice, fatal=True)
            result["annotations"] = []
        else:
            found = sanitize_annotations(content["annotations"], images_by_id, categories, report, stock)
            result["annotations"] = found
    report.mended = not _same(content, result)
    return (result if report.mended else content), report


def _same(content: Content, result: Content) -> bool:
    """Whether all entries are the very objects that the file had."""
    return all(
        len(content[section]) == len(result[section])
        and all(a is b for a, b in zip(content[section], result[section], strict=True))
        for section in ("images", "categories", "annotations")
        if section in content
    )
