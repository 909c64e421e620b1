"""Looks for everything in a COCO-format data set that would stop a training, or quietly spoil it."""

import copy

from adet_iuq.data.annotations.coco_json import read_sanitized
from adet_iuq.data.annotations.image_files import check_image_files
from adet_iuq.data.annotations.object_counts import report_crowded_images
from adet_iuq.data.annotations.report import Report
from adet_iuq.errors import UserError


def check_coco_json(
    json_file: str,
    image_root: str,
    *,
    stock: bool = False,
    image_sizes: bool = True,
    training: bool = False,
    deep_images: str = "dtype",
    detections: int | None = None,
) -> Report:
    """Checks a COCO-format file and its images: what the annotation pass finds, and whether the images are there.

    Fatal: a file that does not parse; an image that is missing, of another size than its entry says, too large, or deep and
    refused; two images of one id; an image whose size nobody tells; an unknown category; a segmentation without any part of
    three points; no usable annotation. A file without the list
    `annotations` (test-dev) is fine unless it is for training.

    Args:
        json_file: COCO or LVIS format.
        image_root: the folder that `file_name` is relative to; for LVIS the last two parts of `coco_url` are.
        stock: one of detectron2's own data sets: their known flaws in segmentations are warnings.
        image_sizes: whether every image's header is read and compared with its entry.
        training: whether annotations are needed.
        deep_images: INPUT.DEEP_IMAGES; it counts only with `image_sizes`.
        detections: of an image that an evaluation counts; images with more objects are named. None: no look at that.

    Returns:
        The findings. Nothing is raised: a file that does not parse is a finding too.
    """
    try:
        content, found = read_sanitized(json_file, image_root, stock=stock)
    except UserError as error:
        report = Report(json_file, image_root)
        report.add("unreadable JSON", str(error), "", fatal=True)
        return report
    report = copy.deepcopy(found)  # it may be shared
    check_image_files(content, report, image_sizes, deep_images)
    annotations = content.get("annotations")
    if annotations is None:
        if training:
            advice = "A data set without the list 'annotations' cannot be trained on."
            report.add("no annotations", json_file, advice, fatal=True)
        return report
    if detections is not None:
        report_crowded_images(content, detections, report)
    report.usable = sum(not annotation["iscrowd"] for annotation in annotations)
    if not report.usable and "no categories" not in report.problems:
        advice = "Nothing can be learned from this file: every annotation is a crowd or unusable, or there is none."
        report.add("no valid instance left", json_file, advice, fatal=True)
    return report
