"""From FCOS's maps to detections (docs/parity/condinst.md, "Inference")."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.layers import batched_nms
from torch import Tensor

from adet_iuq.modeling.condinst.fcos_head import HeadMaps


@dataclass(frozen=True)
class DetectionSettings:
    """Thresholds of the inference.

    Attributes:
        score_threshold: the score that a candidate must exceed.
        pre_nms_topk: the number of candidates that are kept per image and level.
        post_nms_topk: the number of detections that are kept per image (ties with the last are kept too).
        nms_threshold: the IoU above which the lower score of a class is removed; <= 0: no NMS.
        threshold_with_quality: whether scores are multiplied by the quality before the threshold instead of after it.
    """

    score_threshold: float
    pre_nms_topk: int
    post_nms_topk: int
    nms_threshold: float
    threshold_with_quality: bool

    def times(self, images: int) -> "DetectionSettings":
        """The same settings for a picture that holds several images: as many times the candidates and detections."""
        return replace(self, pre_nms_topk=images * self.pre_nms_topk, post_nms_topk=images * self.post_nms_topk)


@dataclass
class Detections:
    """N detections of one image, best score first; boxes are XYXY in pixels of the network input, unclipped."""

    boxes: Tensor  # (N, 4)
    scores: Tensor  # (N,)
    classes: Tensor  # (N,)
    locations: Tensor  # (N, 2)
    levels: Tensor  # (N,)
    cells: Tensor  # (N,) row-major index in the level's map

    def __getitem__(self, index: Tensor) -> "Detections":
        return Detections(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @staticmethod
    def cat(parts: Sequence["Detections"]) -> "Detections":
        """Joins the detections of several levels."""
        return Detections(*(torch.cat([getattr(p, n) for p in parts]) for n in Detections.__dataclass_fields__))


def detect(
    maps: HeadMaps, locations: Sequence[Tensor], strides: Sequence[int], settings: DetectionSettings
) -> list[Detections]:
    """The detections of every image of the batch.

    Args:
        maps: the head's outputs.
        locations: the cells' positions on each level, (h * w, 2).
        strides: the stride of each level in pixels.
        settings: the thresholds.
    """
    results = []
    for image in range(len(maps.logits[0])):
        levels = [
            _candidates(maps, image, level, locations[level], stride, settings) for level, stride in enumerate(strides)
        ]
        results.append(_suppress(Detections.cat(levels), settings))
    return results


def _candidates(
    maps: HeadMaps, image: int, level: int, locations: Tensor, stride: int, settings: DetectionSettings
) -> Detections:
    """The best candidates of one level, with decoded boxes."""
    probability = maps.logits[level][image].float().sigmoid().flatten(1).T  # (h * w, C)
    quality = maps.quality[level][image].float().sigmoid().flatten()
    scores = probability * quality[:, None]
    thresholded = scores if settings.threshold_with_quality else probability
    cell, class_index = torch.nonzero(thresholded > settings.score_threshold, as_tuple=True)
    best, order = scores[cell, class_index].topk(min(settings.pre_nms_topk, len(cell)))
    cell, class_index = cell[order], class_index[order]
    distances = maps.regression[level][image].float().flatten(1).T[cell] * stride
    point = locations[cell]
    boxes = torch.cat([point - distances[:, :2], point + distances[:, 2:]], dim=1)
    return Detections(boxes, best.sqrt(), class_index, point, torch.full_like(cell, level), cell)


def _suppress(detections: Detections, settings: DetectionSettings) -> Detections:
    if settings.nms_threshold > 0:
        keep = batched_nms(detections.boxes, detections.scores, detections.classes, settings.nms_threshold)
    else:
        keep = detections.scores.argsort(descending=True)
    kept = detections[keep]
    if len(kept.scores) <= settings.post_nms_topk:
        return kept
    return kept[kept.scores >= kept.scores[settings.post_nms_topk - 1]]
