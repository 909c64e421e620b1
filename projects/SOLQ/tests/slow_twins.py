"""Straightforward twins, written from docs/parity/solq.md: slow, obvious, and what the fast paths must equal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from scipy.fft import dctn, idctn
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, roi_align

from projects.SOLQ import SOLQ


class LoopCodec(nn.Module):
    """The codec a mask at a time; the zigzag is walked cell by cell, over all of the patch on the way back."""

    def __init__(self, side: int, kept: int) -> None:
        super().__init__()
        self.side, self.kept = side, kept
        self.row = torch.zeros(kept)  # as many as there are coefficients

    def encode_one(self, mask: Tensor, box: Tensor) -> Tensor:
        """(n,) of a mask (H, W) in its box (4,)."""
        roi = torch.cat([box.new_zeros(1), box])[None]
        patch = roi_align(mask[None, None].float(), roi, self.side, 1.0, 0, True)[0, 0] >= 0.5
        spectrum = dctn(patch.numpy().astype(np.float32), norm="ortho")
        return torch.tensor([spectrum[place] for place in walk(self.side)[: self.kept]])

    def decode(self, vectors: Tensor) -> Tensor:
        """(K, m, m) bool of (K, n)."""
        patches = [self.decode_one(vector) for vector in vectors.double().numpy()]
        return torch.stack(patches) if patches else torch.zeros(0, self.side, self.side, dtype=torch.bool)

    def decode_one(self, vector: Any) -> Tensor:
        """(m, m) bool of (n,)."""
        padded = np.zeros(self.side**2)
        padded[: len(vector)] = vector
        spectrum = np.zeros((self.side, self.side))
        for value, (row, column) in zip(padded, walk(self.side), strict=True):
            spectrum[row, column] = value
        patch = idctn(spectrum, norm="ortho")
        return torch.from_numpy(patch > (patch.max() + patch.min()) / 2)


def walk(side: int) -> list[tuple[int, int]]:
    """The zigzag, a step at a time: odd antidiagonals downwards, even ones upwards."""
    places = []
    for diagonal in range(2 * side - 1):
        rows = range(max(0, diagonal - side + 1), min(diagonal, side - 1) + 1)
        for row in rows if diagonal % 2 else reversed(rows):
            places.append((row, diagonal - row))
    return places


def grid_sample_attention(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sample every map with grid_sample, stack, weigh, sum. Shapes as `deformable_attention` of the core."""
    images, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    sampled = []
    for level, (part, (h, w)) in enumerate(zip(value.split([h * w for h, w in sizes], dim=1), sizes, strict=True)):
        maps = part.flatten(2).transpose(1, 2).reshape(images * heads, channels, h, w)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False))
    per_head = weights.transpose(1, 2).reshape(images * heads, 1, queries, levels * points)
    summed = (torch.stack(sampled, dim=-2).flatten(-2) * per_head).sum(-1)
    return summed.view(images, heads * channels, queries).transpose(1, 2).contiguous()


def paste_one(patch: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """(height, width) bool: a patch (m, m) sampled at the pixels around its box."""
    x0, y0, x1, y1 = box.tolist()
    left, top = max(int(np.floor(x0)) - 1, 0), max(int(np.floor(y0)) - 1, 0)
    right, bottom = min(int(np.ceil(x1)) + 1, size[1]), min(int(np.ceil(y1)) + 1, size[0])
    mask = torch.zeros(size, dtype=torch.bool)
    if right > left and bottom > top:
        x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)
        sampled = F.grid_sample(patch[None, None].float(), grid[None], align_corners=False)
        mask[top:bottom, left:right] = sampled[0, 0] >= 0.5
    return mask


class TwinSOLQ(SOLQ):
    """Published order of work: targets are encoded for every layer again, results decoded and pasted one by one."""

    def targets(self, batched_inputs: list[dict[str, Any]], frame: tuple[int, int]) -> list[Any]:
        """What SOLQ makes, once for each layer."""
        codec = LoopCodec(self.codec.side, len(self.codec.row))
        for _ in self.class_embed:
            results = super().targets(batched_inputs, frame)
            for inputs, one in zip(batched_inputs, results, strict=True):
                masks, boxes = inputs["instances"].gt_masks.tensor, inputs["instances"].gt_boxes.tensor
                masks = F.pad(masks, (0, frame[1] - masks.shape[2], 0, frame[0] - masks.shape[1]))
                pairs = zip(masks, boxes, strict=True)
                one.vectors = torch.stack([codec.encode_one(mask, box) for mask, box in pairs])
        return results

    def results(self, logits: Tensor, boxes: Tensor, vectors: Tensor, size: tuple[int, int]) -> Instances:
        """What SOLQ makes, without its masks, and then these."""
        scores, place = logits.sigmoid().flatten().topk(min(self.max_detections, logits.numel()))
        query, found = place // logits.shape[1], Instances(size)
        found.scores, found.pred_classes = scores, place % logits.shape[1]
        height, width = size
        found.pred_boxes = Boxes(box_convert(boxes[query], "cxcywh", "xyxy") * boxes.new_tensor([width, height] * 2))
        patches = LoopCodec(self.codec.side, len(self.codec.row)).decode(vectors[query])
        pairs = zip(patches, found.pred_boxes.tensor, strict=True)
        found.pred_masks = torch.stack([paste_one(patch, box, size) for patch, box in pairs])
        return found
