"""Looks for everything in a COCO-format data set that would stop a training, or quietly spoil it."""

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from adet_iuq.data.annotations.coco_json import read_coco_json, relative_path, unknown_category_text
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.segmentation import has_area, is_valid_box, rle_problem, valid_parts
from adet_iuq.data.cache import folder_time
from adet_iuq.data.images.check import check_image
from adet_iuq.errors import UserError

_OUTSIDE = 1.0  # pixels by which a box may leave the image; COCO's own do by rounding


def check_coco_json(
    json_file: str,
    image_root: str,
    *,
    stock: bool = False,
    image_sizes: bool = True,
    training: bool = False,
    deep_images: str = "dtype",
) -> Report:
    """Checks a COCO-format file and its images.

    Fatal: a file that does not parse, a missing image, an unknown category, a segmentation without any part of three
    points, no usable annotation. A file without the list `annotations` (test-dev) is fine unless it is for training.

    Args:
        json_file: COCO or LVIS format.
        image_root: the folder that `file_name` is relative to; for LVIS the last two parts of `coco_url` are.
        stock: one of detectron2's own data sets: their known flaws in segmentations are warnings.
        image_sizes: whether every image's header is read and compared with its entry.
        training: whether annotations are needed.
        deep_images: INPUT.DEEP_IMAGES.

    Returns:
        The findings. Nothing is raised: a file that does not parse is a finding too.
    """
    report = Report(json_file, image_root)
    try:
        content = read_coco_json(json_file)
    except UserError as error:
        report.add("unreadable JSON", str(error), "", fatal=True)
        return report
    annotations = content.get("annotations")
    images = _check_images(content["images"], annotations or [], report, image_root, image_sizes, deep_images)
    if annotations is None:
        if training:
            advice = "A data set without the list 'annotations' cannot be trained on."
            report.add("no annotations", json_file, advice, fatal=True)
        return report
    report.annotations = len(annotations)
    if not content.get("categories"):
        report.add("no categories", json_file, "Add the list 'categories' with 'id' and 'name'.", fatal=True)
        return report
    _check_annotations(annotations, _category_ids(content["categories"], report), images, report, stock)
    if not report.usable:
        advice = "Nothing can be learned from this file: every annotation is a crowd or unusable, or there is none."
        report.add("no valid instance left", json_file, advice, fatal=True)
    return report


def _category_ids(categories: list[dict[str, Any]], report: Report) -> set[Any]:
    ids: set[Any] = set()
    for category in categories:
        if category.get("id") in ids:
            report.add("duplicate category id", f"category {category.get('id')}", "Only the first one counts.")
        ids.add(category.get("id"))
    return ids


def _check_images(
    entries: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    report: Report,
    image_root: str,
    image_sizes: bool,
    deep_images: str,
) -> dict[Any, dict[str, Any]]:
    """Checks ids, files and sizes; returns the entries by id."""
    report.images = len(entries)
    images: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        if "id" not in entry or not ("file_name" in entry or "coco_url" in entry):
            report.add("incomplete image entry", str(entry)[:100], "Give every image 'id' and 'file_name'.")
        elif entry["id"] in images:
            example = f"id {entry['id']}: {relative_path(images[entry['id']])} and {relative_path(entry)}"
            report.add("duplicate image id", example, "Only the first one is used; give each image its own id.")
        else:
            images[entry["id"]] = entry
    if not images:
        report.add("no images", report.json_file, "The list 'images' has no complete entry.", fatal=True)
    if "://" in image_root:
        return images
    present = _present_files(image_root, (relative_path(entry) for entry in images.values()), report.folders)
    drawn: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        drawn[annotation.get("image_id")].append(annotation)
    for entry in images.values():
        path = relative_path(entry)
        full = os.path.join(image_root, path)
        if os.path.normpath(path) not in present:
            advice = f"Put the files there, or correct the image folder ({image_root})."
            report.add("missing image", f"{full} (image id {entry['id']})", advice, fatal=True)
        elif image_sizes:
            check_image(full, entry, drawn[entry["id"]], report, deep_images)
    return images


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
        except OSError:
            continue
    return present


def _check_annotations(
    annotations: list[dict[str, Any]],
    categories: set[Any],
    images: dict[Any, dict[str, Any]],
    report: Report,
    stock: bool,
) -> None:
    ids: set[Any] = set()
    contents: set[Any] = set()
    for annotation in annotations:
        identity = annotation.get("id")
        image = images.get(annotation.get("image_id"))
        where = f"annotation {identity} of {relative_path(image) if image else 'no listed image'}"
        if identity is None:
            report.add("annotation without id", where, "Number the annotations from 1; the evaluation uses a copy.")
        elif identity in ids:
            report.add("duplicate annotation id", where, "Number the annotations anew; the evaluation uses a copy.")
        elif identity == 0:
            report.add("annotation id 0", where, "COCO's evaluation ignores id 0; ours uses a copy numbered from 1.")
        ids.add(identity)
        known = annotation.get("category_id") in categories
        if not known:
            text = unknown_category_text(report.json_file, annotation)
            report.add("unknown category", f"{text} ({where})", "", fatal=True)
        if image is None:
            example = f"annotation {identity}: image_id {annotation.get('image_id')!r}"
            report.add("annotation of an unknown image", example, "It is left out; add the image to 'images'.")
            continue
        crowd = bool(annotation.get("iscrowd"))
        if crowd:
            report.add("crowd", where, "Not trained on; the evaluation ignores what lies in it.")
        _check_box(annotation.get("bbox"), image, report, where)
        content = (annotation["image_id"], annotation.get("category_id"), str(annotation.get("bbox")))
        if annotation.get("bbox") and content in contents:
            report.add("duplicate annotation", where, "Another one has the same image, category and box.")
        contents.add(content)
        drawn = _check_segmentation(annotation.get("segmentation"), image, report, where, stock)
        if drawn and known and not crowd and image["id"] not in report.disagreeing:
            report.usable += 1


def _check_box(box: Any, image: dict[str, Any], report: Report, where: str) -> None:
    if not is_valid_box(box):
        report.add("no valid box", f"{where}: {box}", "It is taken from the segmentation.")
        return
    width, height = image.get("width"), image.get("height")
    if width is None or height is None:
        return
    x, y, w, h = box
    if min(x, y) < -_OUTSIDE or x + w > width + _OUTSIDE or y + h > height + _OUTSIDE:
        advice = "It is cut at the border; one that is wholly outside is taken from the segmentation."
        report.add("box outside the image", f"{where}: {box} in {width} x {height}", advice)


def _check_segmentation(segmentation: Any, image: dict[str, Any], report: Report, where: str, stock: bool) -> bool:
    """Whether anything of it can be trained on."""
    if isinstance(segmentation, dict):
        problem = rle_problem(segmentation, image.get("height", -1), image.get("width", -1))
        if problem:
            report.add("broken run-length mask", f"{where}: {problem}", "The annotation is left out.")
        return problem is None and _check_area(segmentation, image, report, where)
    parts = valid_parts(segmentation)
    if not parts:
        advice = "Draw a polygon of at least three points (six finite numbers), or delete the annotation."
        shown = "no segmentation" if segmentation is None else f"segmentation {str(segmentation)[:60]}"
        report.add("segmentation without any part of three points", f"{where}: {shown}", advice, fatal=not stock)
    elif len(parts) < len(segmentation):
        advice = "Parts with fewer than three points, an odd count or numbers that are not finite are left out."
        report.add("broken polygon part", f"{where}: {len(segmentation) - len(parts)} parts", advice)
    return bool(parts) and _check_area(parts, image, report, where)


def _check_area(segmentation: Any, image: dict[str, Any], report: Report, where: str) -> bool:
    if has_area(segmentation, image.get("height"), image.get("width")):
        return True
    advice = "It covers nothing of its image; the annotation is left out. Draw it again, or delete it."
    report.add("mask without area", f"{where}: {str(segmentation)[:60]}", advice)
    return False
