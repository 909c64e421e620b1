"""Finds out which detection found which object, at an IoU of 0.5. Tables, curves and pictures of a report are based on it.

pycocotools decides it by its own rules (the most certain detection chooses first, and crowds absorb what lies in them),
on masks, or on boxes if no masks were evaluated. LVIS adds two rules: a detection counts only if its class is labelled
on the image, and a wrong one does not count if the image's objects of that class are not all labelled.

Legend: N images, K classes, D detections in the order of the file, G annotations in the order of the file.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from adet_iuq.evaluation.source import Source

IOU = 0.5

Entry = dict[str, Any]
Numbers = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """The detections and objects of a data set, and which of them belong together.

    Attributes:
        images: the N entries of the JSON file, with the sizes of the image files as far as detections show them.
        names: the K names of classes.
        scores: (D,) float.
        image: (D,) the position in `images` of each detection's image.
        category: (D,) the position in `names` of each detection's class.
        counted: (D,) whether a detection counts as right or wrong, and is not ignored.
        match: (D,) the position of the object that a detection found, or -1.
        object_image: (G,) the position in `images` of each object's image.
        object_category: (G,) the position in `names` of each object's class.
        object_counted: (G,) whether an object should be found; crowds should not.
        found_by: (G,) the position of the detection that found an object, or -1.
        shapes: D run-length masks, or boxes XYWH in pixels if no masks were evaluated.
        object_shapes: G run-length masks or boxes.
    """

    images: list[Entry]
    names: list[str]
    scores: npt.NDArray[np.float64]
    image: Numbers
    category: Numbers
    counted: Marks
    match: Numbers
    object_image: Numbers
    object_category: Numbers
    object_counted: Marks
    found_by: Numbers
    shapes: list[Any]
    object_shapes: list[Any]

    @property
    def hit(self) -> Marks:
        """(D,) whether a detection found an object and counts."""
        return self.counted & (self.match >= 0)


def match(content: Entry, predictions: list[Entry], source: Source) -> Matches:
    """Matches predictions with the ground truth.

    Args:
        content: the content of the JSON file; its annotations get new numbers and run-length masks.
        predictions: predictions in COCO's results format, with the file's ids; they lose their boxes if masks count.
        source: the task, the rules, and how many detections count.
    """
    images, annotations = content["images"], content["annotations"]
    place = {image["id"]: index for index, image in enumerate(images)}
    number = {category["id"]: index for index, category in enumerate(content["categories"])}
    truth = _truth(content, predictions, source.task)
    kept = _labelled(predictions, content, source.max_detections) if source.rules == "lvis" else range(len(predictions))
    counted, found, found_by = _matched(truth, predictions, list(kept), source)
    if source.rules == "lvis":
        partly = {(one["id"], c) for one in images for c in one.get("not_exhaustive_category_ids", ())}
        for index in np.flatnonzero(found < 0):
            counted[index] &= (predictions[index]["image_id"], predictions[index]["category_id"]) not in partly
    shape = "segmentation" if source.task == "segm" else "bbox"
    return Matches(
        images=images,
        names=[str(category.get("name", category["id"])) for category in content["categories"]],
        scores=np.array([one["score"] for one in predictions], dtype=np.float64),
        image=_numbers(place[one["image_id"]] for one in predictions),
        category=_numbers(number[one["category_id"]] for one in predictions),
        counted=counted,
        match=found,
        object_image=_numbers(place[one["image_id"]] for one in annotations),
        object_category=_numbers(number[one["category_id"]] for one in annotations),
        object_counted=np.array([not one["iscrowd"] for one in annotations], dtype=bool),
        found_by=found_by,
        shapes=[one[shape] for one in predictions],
        object_shapes=[one[shape] for one in annotations],
    )


def _numbers(values: Iterable[int]) -> Numbers:
    return np.fromiter(values, dtype=np.int64)


def _truth(content: Entry, predictions: list[Entry], task: str) -> COCO:
    """The ground truth as pycocotools reads it, with masks of the size of the image files."""
    if task == "segm":
        images = {image["id"]: image for image in content["images"]}
        for one in predictions:
            images[one["image_id"]].update(zip(("height", "width"), one["segmentation"]["size"], strict=True))
    for index, annotation in enumerate(content["annotations"]):
        annotation["id"] = index + 1
        annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)  # LVIS does not have it
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    if task == "segm":
        for annotation in content["annotations"]:
            annotation["segmentation"] = truth.annToRLE(annotation)
            annotation["area"] = float(mask_util.area(annotation["segmentation"]))
    return truth


def _labelled(predictions: list[Entry], content: Entry, most: int) -> list[int]:
    """The positions of the detections that LVIS uses: the best ones of each image, of classes that are labelled there."""
    labelled: dict[Any, set[Any]] = {one["id"]: set(one.get("neg_category_ids", ())) for one in content["images"]}
    for annotation in content["annotations"]:
        labelled[annotation["image_id"]].add(annotation["category_id"])
    of_image: dict[Any, list[int]] = defaultdict(list)
    for index, one in enumerate(predictions):
        of_image[one["image_id"]].append(index)
    best = (sorted(some, key=lambda index: -predictions[index]["score"])[:most] for some in of_image.values())
    return sorted(
        index
        for some in best
        for index in some
        if predictions[index]["category_id"] in labelled[predictions[index]["image_id"]]
    )


def _matched(truth: COCO, predictions: list[Entry], kept: list[int], source: Source) -> tuple[Marks, Numbers, Numbers]:
    """`counted`, `match` and `found_by` of `Matches`, for the detections at the positions `kept`.

    It goes image by image, with the classes that were detected there. pycocotools itself goes over all pairs of an
    image and a class, which would take hours on LVIS.
    """
    counted, found = np.zeros(len(predictions), dtype=bool), np.full(len(predictions), -1)
    found_by = np.full(len(truth.dataset["annotations"]), -1)
    if not kept:
        return counted, found, found_by
    if source.task == "segm":
        for one in predictions:
            one.pop("bbox", None)  # otherwise pycocotools takes the area from it
    classes: dict[Any, set[Any]] = defaultdict(set)
    for index in kept:
        classes[predictions[index]["image_id"]].add(predictions[index]["category_id"])
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, truth.loadRes([predictions[index] for index in kept]), source.task)
        judge.params.iouThrs, judge.params.areaRng = np.array([IOU]), [[0, np.inf]]
        judge.params.maxDets = [source.max_detections]
        for image, categories in classes.items():
            judge.params.imgIds, judge.params.catIds = [image], sorted(categories)
            judge.evaluate()
            for one in filter(None, judge.evalImgs):
                places = [kept[identity - 1] for identity in one["dtIds"]]
                counted[places] = ~one["dtIgnore"][0].astype(bool)
                found[places] = one["dtMatches"][0].astype(np.int64) - 1
                objects = np.array(one["gtIds"], dtype=np.int64) - 1
                by = one["gtMatches"][0].astype(np.int64)
                found_by[objects] = [kept[identity - 1] if identity > 0 else -1 for identity in by]
    return counted, found, found_by
