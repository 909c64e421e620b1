"""One detection between the network and the user: the window in which it was seen, and its mask cut to its own size.

Hundreds of masks of a picture with 4000 x 3000 pixels take gigabytes as (N, H, W) bool, but a few megabytes as crops.
All coordinates are pixels of the whole picture; in (x0, y0, x1, y1), x1 and y1 lie behind the last pixel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import supervision as sv
import torch
from detectron2.structures import Instances

from adet_iuq.modeling.layers import EncodedMasks, Masks
from adet_iuq.visualization.instances import class_name

Size = tuple[int, int]  # (height, width)
Window = tuple[int, int, int, int]
Crop = npt.NDArray[np.bool_]


@dataclass
class Part:
    """A detection in a window of the picture.

    Attributes:
        label: the index of the class.
        score: the confidence.
        box: (4,) float32, XYXY.
        place: the window that `mask` covers; None: there is no mask.
        mask: (h, w) bool of the place; None: the segmenter gives boxes only.
        window: the window that was looked at.
        cut: whether the window's border, if it is not the picture's, may cut the object off.
    """

    label: int
    score: float
    box: npt.NDArray[np.float32]
    place: Window | None
    mask: Crop | None
    window: Window
    cut: bool


def parts_of(instances: Instances, window: Window, size: Size, score_threshold: float, margin: int = 0) -> list[Part]:
    """The instances of a window, in their order, in pixels of the picture.

    Args:
        instances: the instances of the picture's window, at its own size; with or without `pred_masks`.
        window: the window's place in the picture.
        size: the size of the picture.
        score_threshold: the lowest score of the instances that are kept.
        margin: the distance in pixels at which a border counts as cutting a box.
    """
    kept = instances[instances.scores >= score_threshold]
    masks: list[tuple[Window | None, Crop | None]] = [(None, None)] * len(kept)
    if kept.has("pred_masks"):
        masks = [_cropped(mask, window) for mask in _single_masks(kept.pred_masks)]
    boxes = kept.pred_boxes.tensor + torch.tensor([*window[:2], *window[:2]])
    found = zip(kept.pred_classes.tolist(), kept.scores.tolist(), boxes.numpy().astype(np.float32), masks, strict=True)
    return [
        Part(label, score, box, place, mask, window, is_cut(tuple(place or box), window, size, margin))
        for label, score, box, (place, mask) in found
    ]


def _single_masks(masks: Masks) -> Iterator[Crop]:
    """The masks, one (H, W) bool after the other."""
    if isinstance(masks, EncodedMasks):
        yield from (mask_util.decode(rle).astype(bool) for rle in masks.rles)
    else:
        yield from (mask.numpy().astype(bool) for mask in masks)


def _cropped(mask: Crop, window: Window) -> tuple[Window, Crop]:
    """The place of a window's mask in the picture, and its pixels there; an empty mask has a place without pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y0, y1 = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    x0, x1 = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
    place = (x0 + window[0], y0 + window[1], x1 + window[0], y1 + window[1])
    return place, mask[y0:y1, x0:x1].copy()


def is_cut(place: Sequence[float], window: Window, size: Size, margin: int) -> bool:
    """Whether something comes within `margin` pixels of a border of the window inside the picture."""
    left = window[0] > 0 and place[0] < window[0] + margin
    top = window[1] > 0 and place[1] < window[1] + margin
    right = window[2] < size[1] and place[2] > window[2] - margin
    bottom = window[3] < size[0] and place[3] > window[3] - margin
    return left or top or right or bottom


def detections_of(parts: Sequence[Part], size: Size, class_names: Sequence[str]) -> sv.Detections:
    """supervision's detections, with masks as its `CompactMask` and the names of the classes as `class_name`."""
    pieces = [
        compact_mask(part.mask, part.place, size) for part in parts if part.mask is not None and part.place is not None
    ]
    return sv.Detections(
        xyxy=np.stack([part.box for part in parts]) if parts else np.zeros((0, 4), dtype=np.float32),
        mask=sv.CompactMask.merge([no_masks(size), *pieces]) if len(pieces) == len(parts) else None,
        confidence=np.array([part.score for part in parts], dtype=np.float32),
        class_id=np.array([part.label for part in parts], dtype=np.int64),
        data={"class_name": np.array([class_name(class_names, part.label) for part in parts], dtype=str)},
    )


def compact_mask(mask: Crop, place: Window, size: Size) -> sv.CompactMask:
    """One mask in supervision's form; a mask without pixels becomes a single pixel that is off."""
    if not mask.size:
        mask, place = np.zeros((1, 1), dtype=bool), (0, 0, 1, 1)
    height, width = mask.shape
    whole = np.array([[0, 0, width - 1, height - 1]])  # supervision's boxes include their last pixel
    return sv.CompactMask.from_dense(mask[None], whole, mask.shape).with_offset(place[0], place[1], size)


def no_masks(size: Size) -> sv.CompactMask:
    """An empty set of masks for a picture of this size."""
    return sv.CompactMask.from_dense(np.zeros((0, *size), dtype=bool), np.zeros((0, 4)), size)
