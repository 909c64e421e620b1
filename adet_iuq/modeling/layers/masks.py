"""Masks on the model's device: those of the ground truth, their samples, their centroids and their boxes.

Shapes: K instances, (H, W) the unpadded network input, (Hp, Wp) the padded one.
"""

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from torch import Tensor
from torch.nn import functional as F


def instance_masks(instances: Instances) -> Tensor:
    """The masks of one image as (K, H, W) bool on the device of its boxes.

    This project's mappers yield `BitMasks`. `PolygonMasks` of other mappers are rasterised here, by the COCO API.
    """
    masks = instances.gt_masks
    height, width = instances.image_size
    if isinstance(masks, PolygonMasks):
        drawn = [polygons_to_bitmask(polygons, height, width) for polygons in masks.polygons]
        array = np.stack(drawn) if drawn else np.zeros((0, height, width), dtype=bool)
        return torch.from_numpy(array).to(instances.gt_boxes.device)
    assert isinstance(masks, BitMasks), type(masks)
    bits: Tensor = masks.tensor.bool()
    return bits


def strided_masks(masks: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Every `stride`-th pixel, starting at `stride // 2`, padded with zeros right and below.

    Args:
        masks: (K, H, W) bool.
        stride: the distance between samples in pixels.
        size: (Hp / stride, Wp / stride), the size of the result.

    Returns:
        (K, *size) float32, the masks that the mask losses compare with (docs/parity/condinst.md, "Targets").
    """
    sampled = masks[:, stride // 2 :: stride, stride // 2 :: stride].float()
    return F.pad(sampled, (0, size[1] - sampled.shape[2], 0, size[0] - sampled.shape[1]))


def mask_centroids(masks: Tensor) -> Tensor:
    """(K, 2) float32 centroids (x, y) of (K, H, W) bool masks, in pixel indices; (0, 0) for an empty mask.

    They are float32 even under autocast: sums of coordinates exceed what float16 can hold.
    """
    columns, rows = masks.sum(1, dtype=torch.float32), masks.sum(2, dtype=torch.float32)
    area = columns.sum(1).clamp(min=1e-6)
    with torch.autocast(masks.device.type, enabled=False):
        x = columns @ torch.arange(masks.shape[2], dtype=torch.float32, device=masks.device)
        y = rows @ torch.arange(masks.shape[1], dtype=torch.float32, device=masks.device)
    return torch.stack([x / area, y / area], dim=1)


def mask_boxes(masks: Tensor) -> Tensor:
    """(N, 4) float32 tight XYXY boxes of masks (N, H, W) bool; right and lower edge lie behind the last pixel. Empty: 0."""
    edges = []
    pixels = masks.view(torch.uint8)  # on a CPU the maximum of bytes takes a tenth of the time of `any`
    for covered in (pixels.amax(1), pixels.amax(2)):  # columns, rows
        filled = covered.amax(1)
        edges += [covered.argmax(1) * filled, (covered.shape[1] - covered.flip(1).argmax(1)) * filled]
    return torch.stack([edges[0], edges[2], edges[1], edges[3]], dim=1).float()
