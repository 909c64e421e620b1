"""The leak rate on mosaics: the share of a mask that lies in other images than its box (data/registration/mosaic.py)."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from adet_iuq.data.annotations.parsing import read_coco_json
from adet_iuq.modeling.layers import mask_boxes


class LeakEvaluator(DatasetEvaluator):
    """The share of predicted masks outside of the tile with the centre of their box, for detections above a score.

    Its task `mosaic` has `leak_rate`, the mean share over detections; `leak_rate_area`, their pixels outside divided by
    all their pixels, in which large masks weigh more (both in percent, not a number without a detection); and
    `detections`, their number. Detections without a pixel do not count. If the segmenter computes boxes from masks, a
    box's centre means less: a mask that leaks widely may have it in a tile that holds no part of the mask, and then
    counts as leaking wholly.

    Every rank processes its share of the images; rank 0 gets the result.

    Args:
        json_file: the JSON file of the mosaics.
        score: the lowest score of detections that count.
    """

    def __init__(self, json_file: str, score: float) -> None:
        self.score = score
        self._tiles = {image["id"]: image["tiles"] for image in read_coco_json(json_file)["images"]}
        self._found: list[tuple[int, int]] = []

    def reset(self) -> None:
        """Forgets all detections."""
        self._found = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in the results of a batch: `instances` with scores, pred_boxes and pred_masks at the mosaic's size."""
        for one, output in zip(inputs, outputs, strict=True):
            instances = output["instances"]
            certain = instances[instances.scores >= self.score]
            leaks = mask_leaks(certain.pred_masks, certain.pred_boxes.tensor, self._tiles[one["image_id"]])
            self._found.extend(zip(*(numbers.tolist() for numbers in leaks), strict=True))

    def evaluate(self) -> dict[str, Any]:
        """The task `mosaic`; nothing on other ranks than 0."""
        found = [leak for leak in itertools.chain(*comm.gather(self._found)) if leak[1] > 0]
        if not comm.is_main_process():
            return {}
        shares = [outside / area for outside, area in found]
        rates = {
            "leak_rate": 100 * sum(shares) / len(found) if found else math.nan,
            "leak_rate_area": 100 * sum(o for o, _ in found) / sum(a for _, a in found) if found else math.nan,
        }
        return {"mosaic": {**rates, "detections": float(len(found))}}


def mask_leaks(masks: Tensor, boxes: Tensor, tiles: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The pixels of each mask outside of the tile with its box's centre, and all its pixels, (N,) long each.

    Args:
        masks: (N, H, W) bool.
        boxes: (N, 4) XYXY in pixels; an empty box is replaced by the mask's own box.
        tiles: T rectangles x0, y0, x1, y1, which divide (H, W).
    """
    given = (boxes[:, 2:] > boxes[:, :2]).all(dim=1, keepdim=True)
    boxes = torch.where(given, boxes, mask_boxes(masks).to(boxes))
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).unbind(dim=1)
    x, y = x.clamp(0, masks.shape[2] - 1), y.clamp(0, masks.shape[1] - 1)
    area = masks.flatten(1).sum(dim=1)
    inside = torch.zeros_like(area)
    for x0, y0, x1, y1 in tiles:
        home = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        inside += home * masks[:, y0:y1, x0:x1].flatten(1).sum(dim=1)
    return area - inside, area
