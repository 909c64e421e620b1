"""FCOS's target assignment: which location is trained for which instance.

Shapes: B images, L locations of all levels together, K instances of one image, P positives of the batch.
Positions are (x, y) in pixels of the network input.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BIG = 1e8  # the area of a pair that is not a candidate, and the upper end of the last level


@dataclass
class Positives:
    """The locations that have a target, ordered by level, then image, then cell.

    Attributes:
        level: (P,) long, the number of the level.
        image: (P,) long, the position of the image in the batch.
        cell: (P,) long, the row-major index in the level's map.
        locations: (P, 2) float, the positions.
        classes: (P,) long, the classes of the instances.
        targets: (P, 4) distances to the box's left, top, right, bottom side in units of the level's stride.
        instance: (P,) long, the index of the instance within its image.
        counts: the number of positives of each level.
    """

    level: Tensor
    image: Tensor
    cell: Tensor
    locations: Tensor
    classes: Tensor
    targets: Tensor
    instance: Tensor
    counts: list[int]

    def __len__(self) -> int:
        return len(self.level)


@dataclass
class GroundTruth:
    """One image's instances: boxes (K, 4) XYXY pixels, classes (K,), centres (K, 2) mask centroids or box centres."""

    boxes: Tensor
    classes: Tensor
    centres: Tensor


def level_locations(size: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """(h * w, 2) float positions of the cells of one level, row by row: stride * index + stride // 2."""
    y, x = (torch.arange(n, device=device, dtype=torch.float32) * stride + stride // 2 for n in size)
    return torch.stack([x.repeat(size[0]), y.repeat_interleave(size[1])], dim=1)


@torch.no_grad()
def assign_targets(
    locations: Sequence[Tensor],
    strides: Sequence[int],
    sizes_of_interest: Sequence[int],
    ground_truth: Sequence[GroundTruth],
    num_classes: int,
    radius: float | None,
) -> tuple[Tensor, Positives]:
    """Assigns at most one instance to every location (docs/parity/condinst.md, "Targets").

    Args:
        locations: the cells' positions on each level, (h * w, 2).
        strides: the stride of each level in pixels.
        sizes_of_interest: the bounds between the levels: the largest distance to a side, in pixels.
        ground_truth: the instances, one entry per image.
        num_classes: the number of classes C, which is also the label of a location without target.
        radius: half the side of the centre region in strides; None: the whole box.

    Returns:
        The labels (B * L,) long, ordered by level, then image, then cell; and the positives.
    """
    counts = [len(points) for points in locations]
    points = torch.cat(list(locations))
    stride = _per_location(strides, counts, points)
    bounds = [-1.0, *map(float, sizes_of_interest), BIG]
    lows, highs = _per_location(bounds[:-1], counts, points), _per_location(bounds[1:], counts, points)

    labels, instances, targets = [], [], []
    for truth in ground_truth:
        label, instance, target = _assign_image(points, stride, lows, highs, truth, num_classes, radius)
        labels.append(label)
        instances.append(instance)
        targets.append(target)
    return _positives(
        locations, strides, torch.stack(labels), torch.stack(instances), torch.stack(targets), num_classes
    )


def _per_location(values: Sequence[float], counts: Sequence[int], like: Tensor) -> Tensor:
    return torch.cat([like.new_full((count,), value) for value, count in zip(values, counts, strict=True)])


def _assign_image(
    points: Tensor,
    stride: Tensor,
    lows: Tensor,
    highs: Tensor,
    truth: GroundTruth,
    num_classes: int,
    radius: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Label (L,), instance (L,) and distances in strides (L, 4) for one image."""
    if len(truth.boxes) == 0:
        nothing = torch.zeros(len(points), dtype=torch.long, device=points.device)
        return nothing + num_classes, nothing, points.new_zeros(len(points), 4)
    distances = _distances(points, truth.boxes[None])
    if radius is None:
        inside = distances.amin(2) > 0
    else:
        half = (radius * stride)[:, None, None]
        centre = truth.centres[None]
        low = torch.maximum(centre - half, truth.boxes[None, :, :2])
        high = torch.minimum(centre + half, truth.boxes[None, :, 2:])
        point = points[:, None]
        inside = ((point > low) & (point < high)).all(2)
    largest = distances.amax(2)
    candidate = inside & (largest >= lows[:, None]) & (largest <= highs[:, None])
    sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
    area, instance = torch.where(candidate, sides.prod(1), BIG).min(1)
    label = torch.where(area == BIG, num_classes, truth.classes[instance])
    chosen = _distances(points, truth.boxes[instance])
    return label, instance, chosen / stride[:, None]


def _distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances left, top, right, bottom of points (L, 2) to boxes (1, K, 4) or (L, 4)."""
    points = points[:, None] if boxes.dim() == 3 else points
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def _positives(
    locations: Sequence[Tensor],
    strides: Sequence[int],
    labels: Tensor,
    instances: Tensor,
    targets: Tensor,
    num_classes: int,
) -> tuple[Tensor, Positives]:
    """Reorders (B, L) tensors by level first, and lists the positives."""
    counts = [len(points) for points in locations]
    flat_labels = torch.cat([part.flatten() for part in labels.split(counts, dim=1)])
    index = torch.nonzero(flat_labels != num_classes).squeeze(1)  # waits for the device, as do the counts below
    device = labels.device
    ends = torch.tensor([0, *counts], device=device).cumsum(0) * len(labels)
    level = torch.bucketize(index, ends[1:], right=True)
    sizes = torch.tensor(counts, device=device)[level]
    within = index - ends[level]
    image, cell = torch.div(within, sizes, rounding_mode="floor"), within % sizes
    column = cell + ends[level] // max(len(labels), 1)
    positives = Positives(
        level=level,
        image=image,
        cell=cell,
        locations=torch.cat(list(locations))[column],
        classes=flat_labels[index],
        targets=targets[image, column],
        instance=instances[image, column],
        counts=torch.bincount(level, minlength=len(strides)).tolist(),
    )
    return flat_labels, positives
