"""Turns the masks and classes of all queries into instances, panoptic segments and a semantic map.

Source: docs/parity/mask2former.md, "Inference". Shapes: Q queries, K classes, (H, W) wished output.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers import MaskWindow, Resampling, boxes_around, encoded_masks, resized_axis, stacked_masks
from adet_iuq.modeling.parts import part

Size = tuple[int, int]
CHUNK_BYTES = 128 * 1024**2  # bytes of enlarged masks that exist at one time


@dataclass(frozen=True)
class OutputGeometry:
    """Sizes (height, width) on the way from a mask at the stride of the mask features to the wanted output."""

    padded: Size
    image: Size
    output: Size

    def resize(self, masks: Tensor) -> Tensor:
        """Mask logits (N, h, w) to (N, H, W): enlarged to the padded input, cut to the image, resized to the output."""
        result = masks.new_empty(len(masks), *self.output)
        pixels = max(self.padded[0] * self.padded[1], self.output[0] * self.output[1])
        step = max(1, CHUNK_BYTES // (4 * pixels))
        for start in range(0, len(masks), step):
            result[start : start + step] = self.fit(enlarge(masks[start : start + step], self.padded))
        return result

    def windows(self, masks: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """The same result where it is above zero, a few masks at a time; see `Resampling.windows`."""
        rows, columns = (resized_axis(*sizes) for sizes in zip(masks.shape[1:], self.padded, strict=True))
        return Resampling((rows, columns), self.image, self.output).windows(masks, 0.0)

    def fit(self, maps: Tensor) -> Tensor:
        """Maps (N, *padded) cut to the image and resized to the output."""
        return enlarge(maps[:, : self.image[0], : self.image[1]], self.output)


def enlarge(maps: Tensor, size: Size) -> Tensor:
    """(N, h, w) to (N, *size), bilinear."""
    if maps.shape[1:] == size:
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def instance_inference(
    logits: Tensor,
    masks: Tensor,
    geometry: OutputGeometry,
    count: int,
    things: Sequence[int] | None,
    *,
    encode: bool = False,
) -> Instances:
    """The best `count` pairs of query and class. A query may appear with several classes; its mask is resized once.

    Args:
        logits: (Q, K + 1), the class logits.
        masks: (Q, h, w) logits at the stride of the mask features.
        geometry: the sizes on the way to the output.
        count: the most pairs that are chosen.
        things: the classes that are kept, among the best `count` pairs; None: all.
        encode: whether masks become run lengths.

    Returns:
        Instances of the output size with pred_masks (bool, or `EncodedMasks`), scores (class probability times mean mask
        probability inside the mask), pred_classes, and pred_boxes around the masks (the published model leaves them all
        zero).
    """
    scores, query, label = best_pairs(logits, count, things)
    distinct, which = torch.unique(query, return_inverse=True)
    quality: list[Tensor] = []

    def chunks() -> Iterator[MaskWindow]:
        for values, top, left in geometry.windows(masks[distinct]):
            inside = values > 0
            quality.append((values.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6))
            yield MaskWindow(inside, top, left)

    size = geometry.output
    found = encoded_masks(chunks(), size) if encode else stacked_masks(chunks(), len(distinct), size, masks.device)
    result = Instances(size)
    result.pred_masks = found[which]
    result.scores = scores * torch.cat(quality)[which] if quality else scores
    result.pred_classes = label
    result.pred_boxes = Boxes(boxes_around(found, masks.device)[which])
    return result


@part("nms")
def best_pairs(logits: Tensor, count: int, things: Sequence[int] | None) -> tuple[Tensor, Tensor, Tensor]:
    """The class probability, the query and the class of the best `count` pairs, as far as the class is in `things`."""
    classes = logits.shape[1] - 1
    scores, index = logits.softmax(-1)[:, :-1].flatten().topk(min(count, len(logits) * classes), sorted=False)
    query, label = torch.div(index, classes, rounding_mode="floor"), index % classes
    if things is None:
        return scores, query, label
    kept = torch.isin(label, torch.as_tensor(list(things), device=label.device))
    return scores[kept], query[kept], label[kept]


def panoptic_inference(
    logits: Tensor, masks: Tensor, things: Sequence[int], score_threshold: float, overlap_threshold: float
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Assigns every pixel to one segment or to none.

    Args:
        logits: (Q, K + 1), the class logits.
        masks: (Q, H, W) logits at output size.
        things: the classes whose segments stay apart; all other classes are stuff, whose segments are merged.
        score_threshold: the score that a query must exceed to take part.
        overlap_threshold: the smallest share of a mask that other masks must leave to it.

    Returns:
        (H, W) int32 segment ids from 1 on, 0 for none, and for every id `id`, `isthing` and `category_id`.
    """
    scores, labels = logits.softmax(-1).max(-1)
    kept = (labels != logits.shape[1] - 1) & (scores > score_threshold)
    scores, labels = scores[kept], labels[kept]
    if len(labels) == 0:
        return torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device), []
    probability = masks[kept].sigmoid()
    owner = (scores[:, None, None] * probability).argmax(0)
    large = probability >= 0.5
    visible = large.gather(0, owner[None])[0]  # whether the pixel lies inside its owner's mask
    count = len(labels)
    owned = torch.bincount(owner.flatten(), minlength=count)
    shown = torch.bincount(owner[visible], minlength=count)
    areas = torch.stack([owned, large.flatten(1).sum(1), shown, labels]).tolist()  # one transfer to the host

    ids = [0] * count
    segments: list[dict[str, Any]] = []
    stuff_ids: dict[int, int] = {}
    for index, (owned_area, large_area, shown_area, label) in enumerate(zip(*areas, strict=True)):
        if not (owned_area and large_area and shown_area) or owned_area / large_area < overlap_threshold:
            continue
        if label in stuff_ids:
            ids[index] = stuff_ids[label]
            continue
        ids[index] = len(segments) + 1
        is_thing = label in things
        if not is_thing:
            stuff_ids[label] = ids[index]
        segments.append({"id": ids[index], "isthing": is_thing, "category_id": label})
    painted = torch.tensor(ids, dtype=torch.int32, device=masks.device)[owner]
    return torch.where(visible, painted, 0), segments


def semantic_inference(logits: Tensor, masks: Tensor) -> Tensor:
    """(K, H, W) scores: class probabilities (of logits (Q, K + 1)) times mask probabilities (of masks (Q, H, W))."""
    return torch.einsum("qc,qhw->chw", logits.softmax(-1)[:, :-1], masks.sigmoid())
