"""The published mappers' augmentations.

Sources: docs/parity/condinst.md, "Data", and docs/parity/mask2former.md, "Data".
Both resizes are detectron2's, except that a side of a long and narrow image keeps at least one pixel.
"""

import random

import numpy as np
import numpy.typing as npt
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from adet_iuq.errors import UserError

_TOLERANCE = 1e-3  # pixels by which a box may stick out of the window and still count as inside


class InstanceCrop(T.Augmentation):
    """A crop window that contains the centre of one random instance, or a random window if the image has no instance.

    The instance is drawn with Python's `random`, the window's size and place with numpy's global generator.

    Args:
        crop_type: INPUT.CROP.TYPE, as in detectron2's RandomCrop.
        crop_size: INPUT.CROP.SIZE, as in detectron2's RandomCrop.
        cut_instances: whether the window may cut boxes; if not, it grows until it cuts none.
    """

    def __init__(self, crop_type: str, crop_size: tuple[float, float], cut_instances: bool = True) -> None:
        super().__init__()
        self.window = T.RandomCrop(crop_type, crop_size)
        self.cut_instances = cut_instances

    def get_transform(self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float64]) -> T.Transform:
        """The crop for an (H, W, C) image with (N, 4) boxes, XYXY in pixels, including those of crowds."""
        height, width = image.shape[:2]
        if not len(boxes):
            return self.window.get_transform(image)
        boxes = np.clip(boxes, 0, [width, height, width, height])
        crop_height, crop_width = self.window.get_crop_size((height, width))
        x_low, y_low, x_high, y_high = boxes[random.randrange(len(boxes))]
        top = _draw_start((y_low + y_high) / 2, crop_height, height)
        left = _draw_start((x_low + x_high) / 2, crop_width, width)
        window = np.array([left, top, left + crop_width, top + crop_height])
        if not self.cut_instances:
            window = grow_window(window, boxes)
        left, top, right, bottom = (int(value) for value in window)
        return T.CropTransform(left, top, right - left, bottom - top, width, height)


def _draw_start(centre: float, length: int, limit: int) -> int:
    """First pixel of a window of this length, inside 0..limit, that contains the centre."""
    low = max(int(np.floor(centre)) - length, 0)
    high = min(limit - length, int(np.ceil(centre)))
    return int(np.random.randint(low, high + 1))


def grow_window(window: npt.NDArray[np.int64], boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The smallest window around `window` (XYXY, whole pixels) such that every box is inside or outside of it.

    The published code gives up after 100 rounds. Each round adds a box for good, so this function always ends.
    """
    while True:
        overlap = (
            (boxes[:, 0] < window[2] - _TOLERANCE)
            & (boxes[:, 1] < window[3] - _TOLERANCE)
            & (boxes[:, 2] > window[0] + _TOLERANCE)
            & (boxes[:, 3] > window[1] + _TOLERANCE)
        )
        touched = boxes[overlap]
        if not len(touched):
            return window
        low = np.minimum(window[:2], np.floor(touched[:, :2].min(axis=0) + _TOLERANCE))
        high = np.maximum(window[2:], np.ceil(touched[:, 2:].max(axis=0) - _TOLERANCE))
        grown = np.concatenate([low, high]).astype(np.int64)
        if np.array_equal(grown, window):
            return window
        window = grown


class ResizeShortestEdge(T.ResizeShortestEdge):
    """detectron2's resize with the exception that the module's text describes."""

    def get_transform(self, image: npt.NDArray[np.uint8]) -> T.Transform:
        """The resize of an (H, W, C) image."""
        return _with_a_pixel(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """detectron2's resize with the exception that the module's text describes."""

    def get_transform(self, image: npt.NDArray[np.uint8]) -> T.Transform:
        """The resize of an (H, W, C) image."""
        return _with_a_pixel(super().get_transform(image))


def _with_a_pixel(transform: T.Transform) -> T.Transform:
    if isinstance(transform, T.ResizeTransform):
        transform.new_h, transform.new_w = max(1, transform.new_h), max(1, transform.new_w)
    return transform


def build_training_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Crop (INPUT.CROP.ENABLED), rotation (INPUT.IS_ROTATE, only with the crop), resize and flip, in this order.

    Raises:
        UserError: the sizes do not fit INPUT.MIN_SIZE_TRAIN_SAMPLING.
    """
    augmentations: list[T.Augmentation] = []
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(InstanceCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.CROP_INSTANCE))
        if cfg.INPUT.IS_ROTATE:
            augmentations.append(T.RandomRotation(angle=[-30.0, 30.0]))
    style, sizes = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.MIN_SIZE_TRAIN
    if style not in ("choice", "range"):
        raise UserError(f'INPUT.MIN_SIZE_TRAIN_SAMPLING is "{style}"; it can be "choice" or "range".')
    if isinstance(sizes, int):  # detectron2 reads it as the only size
        sizes = (sizes, sizes)
    if len(sizes) == 0 or (style == "range" and len(sizes) != 2):
        wanted = 'two sizes, the least and the largest ("range")' if style == "range" else "at least one size"
        raise UserError(f"INPUT.MIN_SIZE_TRAIN is {tuple(sizes)}; INPUT.MIN_SIZE_TRAIN_SAMPLING needs {wanted}.")
    augmentations.append(ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, style))
    if cfg.INPUT.HFLIP_TRAIN:
        augmentations.append(T.RandomFlip(prob=0.5))
    return augmentations


def build_test_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """The resize to INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST, as in detectron2's evaluations."""
    return [ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]


def build_lsj_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Flip (INPUT.RANDOM_FLIP), large-scale jitter, and crop or grey padding to INPUT.IMAGE_SIZE, in this order.

    A single uniform number places the crop on both axes.
    """
    flip, size = cfg.INPUT.RANDOM_FLIP, cfg.INPUT.IMAGE_SIZE
    augmentations: list[T.Augmentation] = []
    if flip != "none":
        augmentations.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    augmentations.append(ResizeScale(cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, target_height=size, target_width=size))
    augmentations.append(T.FixedSizeCrop(crop_size=(size, size)))
    return augmentations
