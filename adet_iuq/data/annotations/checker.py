"""Looks in a COCO-format data set for everything that would stop a training or spoil it unnoticed."""

import copy
import logging
import math

import numpy as np

from adet_iuq.data.annotations.digest import Digest
from adet_iuq.data.annotations.digest_cache import digest_of
from adet_iuq.data.annotations.image_files import check_image_files
from adet_iuq.data.annotations.records import Records
from adet_iuq.data.annotations.report import Report
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


def check_coco_json(
    json_file: str,
    image_root: str,
    *,
    stock: bool = False,
    image_sizes: bool = True,
    most_images: float = math.inf,
    training: bool = False,
    deep_images: str = "dtype",
    skip_unreadable: bool = False,
    detections: int | None = None,
) -> Report:
    """Checks a COCO-format file and its images: the findings of the annotation pass, and whether the images exist.

    Fatal findings are: a file that does not parse; an image that is missing, unreadable by its header, of another size
    than in its entry, too large, or deep and refused; two images with one id; an image without a known size; an unknown
    category; a segmentation without any part of three points; no usable annotation. A file without the list
    `annotations` (test-dev) is fine unless it is for training.

    Args:
        json_file: the path of the file, in COCO or LVIS format.
        image_root: the folder that `file_name` is relative to; for LVIS the last two parts of `coco_url` are.
        stock: whether it is one of detectron2's own data sets, whose known flaws in segmentations are only warnings.
        image_sizes: whether every image's header is read and compared with its entry.
        most_images: if the set has more images, no header is read, and a message says so.
        training: whether annotations are needed.
        deep_images: INPUT.DEEP_IMAGES, which counts only with `image_sizes`.
        skip_unreadable: whether images that cannot be read are a warning, for a training that replaces them
            (GUARD.SKIP_CORRUPT_IMAGES).
        detections: how many detections of an image an evaluation counts. Images with more objects are named; None: not.

    Returns:
        The findings. Nothing is raised: a file that does not parse is a finding as well.
    """
    try:
        kept = digest_of(json_file, image_root, stock=stock)
    except UserError as error:
        report = Report(json_file, image_root)
        report.add("unreadable JSON", str(error), "", fatal=True)
        return report
    digest = kept.digest
    report = copy.deepcopy(digest.report)  # because others share it
    opened = image_sizes and len(digest.images) <= most_images
    if image_sizes and not opened:
        _tell_unopened(len(digest.images), json_file, image_root)
    check_image_files(
        Records(digest, kept.texts, image_root), digest.images, report, opened, deep_images, skip_unreadable
    )
    if not digest.is_annotated:
        if training:
            advice = "A data set without the list 'annotations' cannot be trained on."
            report.add("no annotations", json_file, advice, fatal=True)
        return report
    if detections is not None:
        _report_crowded_images(digest, detections, report)
    report.usable = int(digest.objects.sum())
    if not report.usable and "no categories" not in report.problems:
        advice = "Nothing can be learned from this file: every annotation is a crowd or unusable, or there is none."
        report.add("no valid instance left", json_file, advice, fatal=True)
    return report


def _tell_unopened(images: int, json_file: str, image_root: str) -> None:
    logger.info(
        "%s has %d images: they are not opened before the training. Those that do not fit their entries are refused "
        "when their turn comes; python tools/check_dataset.py --json %s --image-root %s looks at all of them.",
        *(json_file, images, json_file, image_root),
    )


def _report_crowded_images(digest: Digest, counted: int, report: Report) -> None:
    """Adds images with more objects than counted detections: the others can never be found, and AP does not say why."""
    for place in np.flatnonzero(digest.objects > counted):
        advice = (
            f"An evaluation counts the best {counted} detections of an image, so that the others are never found. Evaluate "
            f"with TEST.DETECTIONS_PER_IMAGE {digest.objects.max()}."
        )
        example = f"{digest.images[place][0]}: {digest.objects[place]} objects"
        report.add("more objects than detections", example, advice)
