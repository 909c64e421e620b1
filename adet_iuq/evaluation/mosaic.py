"""What masks on mosaics tell about their queries: how far they leak into other images than their box, and how many of
them are there twice (data/registration/mosaic.py)."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import torch
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from torch import Tensor

from adet_iuq.data.annotations.parsing import read_coco_json
from adet_iuq.evaluation.run_lengths import RunLengthEvaluator
from adet_iuq.modeling.layers import EncodedMasks, Masks, encoded_masks

_RATES = ("leak_rate", "leak_rate_area", "duplicate_rate")
SHARED = 0.5  # detections whose masks have a higher intersection over union share a mask


class MosaicEvaluator(DatasetEvaluators, RunLengthEvaluator):
    """Several evaluators of mosaics as one. All of them accept run lengths, so it accepts them too."""

    def __init__(self, evaluators: Sequence[RunLengthEvaluator]) -> None:
        super().__init__(evaluators)


class LeakEvaluator(RunLengthEvaluator):
    """Leaks and duplicates among the masks of detections above a score.

    A mask leaks with what lies outside of the tile with the centre of its box.

    Its task `mosaic` has, in percent and not a number without a detection, `leak_rate`, the mean share over detections;
    `leak_rate_area`, their pixels outside divided by all their pixels, in which large masks weigh more; and
    `duplicate_rate`, the share of detections whose mask has an IoU above 0.5 with that of a detection of the same class
    and a higher score. `detections` is their number. Detections without a pixel do not count. If the segmenter computes
    boxes from masks, a box's centre means less: a mask that leaks widely may have it in a tile that holds no part of the
    mask, and then counts as leaking wholly.

    Every rank processes its share of the images; rank 0 gets the result.

    Args:
        json_file: the JSON file of the mosaics.
        score: the lowest score of detections that count.
    """

    def __init__(self, json_file: str, score: float) -> None:
        self.score = score
        self._tiles = {image["id"]: image["tiles"] for image in read_coco_json(json_file)["images"]}
        self._found: list[tuple[int, int, bool]] = []

    def reset(self) -> None:
        """Forgets all detections."""
        self._found = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in the results of a batch: `instances` with scores, pred_boxes and pred_masks at the mosaic's size."""
        for one, output in zip(inputs, outputs, strict=True):
            instances = output["instances"]
            certain = instances[instances.scores >= self.score]
            certain = certain[certain.scores.argsort(descending=True, stable=True)]
            leaks = mask_leaks(certain.pred_masks, certain.pred_boxes.tensor, self._tiles[one["image_id"]])
            twice = duplicates(certain.pred_masks, certain.pred_classes)
            self._found.extend(zip(*(numbers.tolist() for numbers in (*leaks, twice)), strict=True))

    def evaluate(self) -> dict[str, Any]:
        """The task `mosaic`; nothing on other ranks than 0."""
        found = [leak for leak in itertools.chain(*comm.gather(self._found)) if leak[1] > 0]
        if not comm.is_main_process():
            return {}
        if not found:
            return {"mosaic": {**dict.fromkeys(_RATES, math.nan), "detections": 0.0}}
        outside, areas, twice = zip(*found, strict=True)
        shares = sum(one / area for one, area in zip(outside, areas, strict=True)) / len(found)
        rates = (shares, sum(outside) / sum(areas), sum(twice) / len(found))
        named = {name: 100 * rate for name, rate in zip(_RATES, rates, strict=True)}
        return {"mosaic": {**named, "detections": float(len(found))}}


def mask_leaks(masks: Masks, boxes: Tensor, tiles: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The pixels of each mask outside of the tile with its box's centre, and all its pixels, (N,) long each.

    It counts in run lengths, which are a few hundred numbers where a mask has a million pixels.

    Args:
        masks: N masks of (H, W).
        boxes: (N, 4) XYXY in pixels; an empty box is replaced by the mask's own box.
        tiles: T rectangles x0, y0, x1, y1, which divide (H, W).
    """
    if not len(masks):
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    masks = _run_lengths(masks)
    boxes = boxes.cpu()
    given = (boxes[:, 2:] > boxes[:, :2]).all(dim=1, keepdim=True)
    boxes = torch.where(given, boxes, masks.boxes().to(boxes))
    height, width = masks.size
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(dim=1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    # One by one: with NumPy 2, pycocotools 2.0.11 fails for more than 255 at once.
    area = torch.tensor([int(mask_util.area(rle)) for rle in masks.rles])
    # The IoU with a crowd is the share of the mask that lies in it.
    shares = mask_util.iou(masks.rles, [_tile_mask(tile, masks.size) for tile in tiles], [1] * len(tiles))
    within = (torch.from_numpy(shares) * area[:, None]).round().long()
    x0, y0, x1, y1 = torch.tensor(tiles).unbind(dim=1)
    home = (x[:, None] >= x0) & (x[:, None] < x1) & (y[:, None] >= y0) & (y[:, None] < y1)
    return area - (home * within).sum(dim=1), area


def duplicates(masks: Masks, classes: Tensor) -> Tensor:
    """Whether each mask shares an IoU above 0.5 with an earlier one of the same class: (N,) bool.

    Args:
        masks: N masks of (H, W), the most certain first. Those without a pixel are no duplicates.
        classes: (N,) long.
    """
    if not len(masks):
        return torch.zeros(0, dtype=torch.bool)
    rles = _run_lengths(masks).rles
    shared = torch.from_numpy(mask_util.iou(rles, rles, [0] * len(rles))) > SHARED
    classes = classes.cpu()
    return (shared & (classes[:, None] == classes)).tril(diagonal=-1).any(dim=1)


def _run_lengths(masks: Masks) -> EncodedMasks:
    return encoded_masks([masks], (masks.shape[1], masks.shape[2])) if isinstance(masks, Tensor) else masks


def _tile_mask(tile: Sequence[int], size: tuple[int, int]) -> dict[str, Any]:
    """The run lengths of a rectangle x0, y0, x1, y1 in an image of `size` (height, width)."""
    x0, y0, x1, y1 = tile
    mask: npt.NDArray[np.uint8] = np.zeros(size, dtype=np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    rle: dict[str, Any] = mask_util.encode(mask)
    return rle
