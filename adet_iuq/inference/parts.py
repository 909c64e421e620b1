"""One detection as it is kept between the network and the user: where it was seen, and its mask cut to its own size.

Hundreds of masks of a picture with 4000 x 3000 pixels are gigabytes as (N, H, W) bool, and a few megabytes as crops.
All coordinates are pixels of the whole picture; (x0, y0, x1, y1) with x1 and y1 one past the last pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import supervision as sv
import torch
from detectron2.structures import Instances

from adet_iuq.modeling.layers import EncodedMasks
from adet_iuq.visualization.instances import class_name

Size = tuple[int, int]  # (height, width)
Window = tuple[int, int, int, int]
Crop = npt.NDArray[np.bool_]


@dataclass
class Part:
    """What one look at a window of the picture has found.

    Attributes:
        label: index of the class.
        score: confidence.
        box: (4,) float32, XYXY.
        place: the window that `mask` covers; None: without a mask.
        mask: (h, w) bool of the place; None: the segmenter gives boxes only.
        window: what was looked at.
        cut: whether the window's border, where it is not the picture's, may cut the object off.
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
        instances: of the picture's window, at its own size, with `pred_masks` as `EncodedMasks` or none.
        window: where it lies.
        size: of the picture.
        score_threshold: those that score less are left out.
        margin: pixels; a box that comes so near to a border is cut by it.
    """
    kept = instances[instances.scores >= score_threshold]
    masks: list[tuple[Window | None, Crop | None]] = [(None, None)] * len(kept)
    if kept.has("pred_masks"):
        assert isinstance(kept.pred_masks, EncodedMasks)
        masks = [_cropped(rle, window) for rle in kept.pred_masks.rles]
    boxes = kept.pred_boxes.tensor + torch.tensor([*window[:2], *window[:2]])
    found = zip(kept.pred_classes.tolist(), kept.scores.tolist(), boxes.numpy().astype(np.float32), masks, strict=True)
    return [
        Part(label, score, box, place, mask, window, is_cut(tuple(place or box), window, size, margin))
        for label, score, box, (place, mask) in found
    ]


def _cropped(rle: dict[str, object], window: Window) -> tuple[Window, Crop]:
    """Place and mask of COCO's run lengths; an empty mask has a place without pixels."""
    x, y, width, height = (round(value) for value in mask_util.toBbox(rle))
    mask = mask_util.decode(rle)[y : y + height, x : x + width].astype(bool)
    x, y = x + window[0], y + window[1]
    return (x, y, x + width, y + height), mask


def is_cut(place: Sequence[float], window: Window, size: Size, margin: int) -> bool:
    """Whether something comes within `margin` pixels of a border of the window inside the picture."""
    left = window[0] > 0 and place[0] < window[0] + margin
    top = window[1] > 0 and place[1] < window[1] + margin
    right = window[2] < size[1] and place[2] > window[2] - margin
    bottom = window[3] < size[0] and place[3] > window[3] - margin
    return left or top or right or bottom


def detections_of(parts: Sequence[Part], size: Size, class_names: Sequence[str]) -> sv.Detections:
    """supervision's detections, with masks as its `CompactMask`; `data` has `class_name`."""
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
    """One mask in supervision's form; one without pixels becomes a single pixel that is off."""
    if not mask.size:
        mask, place = np.zeros((1, 1), dtype=bool), (0, 0, 1, 1)
    height, width = mask.shape
    whole = np.array([[0, 0, width - 1, height - 1]])  # supervision's boxes include their last pixel
    return sv.CompactMask.from_dense(mask[None], whole, mask.shape).with_offset(place[0], place[1], size)


def no_masks(size: Size) -> sv.CompactMask:
    """None of a picture of this size."""
    return sv.CompactMask.from_dense(np.zeros((0, *size), dtype=bool), np.zeros((0, 4)), size)
