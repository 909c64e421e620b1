"""Boxes as centre and size, and their generalised overlap."""

import torch
from torch import Tensor
from torchvision.ops import box_convert


def corners(boxes: Tensor) -> Tensor:
    """Converts (..., 4) x, y, w, h around a centre to XYXY."""
    return box_convert(boxes, "cxcywh", "xyxy")


def centred(boxes: Tensor) -> Tensor:
    """Converts (..., 4) XYXY to x, y, w, h around a centre."""
    return box_convert(boxes, "xyxy", "cxcywh")


def logit(x: Tensor) -> Tensor:
    """The inverse of the sigmoid for x in [0, 1], finite at both ends."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5))


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """(...) GIoU (arXiv 1902.09630) of boxes (..., 4) XYXY, elementwise; shapes broadcast."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1) - intersection
    low, high = torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return intersection / union - (hull - union) / hull
