"""Which grid cells answer for which instances: SOLOv2's and SOTR's target assignment (docs/parity/solov2.md, "Targets").

Shapes: B images, L levels, S_l cells along each side of level l, N = sum of S_l^2 cells of all levels, K instances of one
image, P pairs (instance, cell). Cells are numbered over all levels: those of level 0 row by row, then those of level 1
... Coordinates are pixel indices of the network input: the first pixel's centre is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers.masks import mask_centroids


@dataclass(frozen=True)
class GridLayout:
    """The grids over the padded image.

    Attributes:
        sizes: S_l, the cells along each side of every level.
        strides: the strides of the levels' inputs in pixels.
        scale_ranges: the smallest and the largest instance of each level, as roots of box areas in pixels, both included.
        sigma: the side of an instance's centre region, as a share of its box.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    sigma: float

    @property
    def counts(self) -> list[int]:
        """The number of cells of each level."""
        return [size**2 for size in self.sizes]

    def cell_strides(self, device: torch.device) -> Tensor:
        """(N,) float, the stride of every cell's level."""
        counts = torch.tensor(self.counts, device=device)
        return torch.tensor(self.strides, dtype=torch.float32, device=device).repeat_interleave(counts)


@dataclass
class GridTruth:
    """One image's instances in the data set's order: boxes (K, 4) XYXY, classes (K,), masks (K, h, w) bool, unpadded."""

    boxes: Tensor
    classes: Tensor
    masks: Tensor


@dataclass
class GridTargets:
    """What the cells of a batch are trained for.

    A cell that lies in the regions of two instances makes two pairs, with the same query and different masks.

    Attributes:
        image: (P,) long, the image of each pair. Pairs are sorted by level, then image, instance and cell.
        cell: (P,) long, the cell of each pair, numbered over all levels.
        instance: (P,) long, the instance of each pair, counted within its image.
        labels: (B, N) long, the class of the last instance that claims the cell; num_classes if none does.
    """

    image: Tensor
    cell: Tensor
    instance: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.image)


@torch.no_grad()
def assign_cells(
    layout: GridLayout, truths: Sequence[GridTruth], frame: tuple[int, int], num_classes: int
) -> GridTargets:
    """Assigns to every instance up to 3 x 3 cells around its centre of mass, on each level that its size fits.

    Args:
        layout: the grids.
        truths: the instances, one entry per image, at least one.
        frame: (Hp, Wp), the padded size that the grids divide.
        num_classes: the number of classes C, which is the label of a cell without an instance.
    """
    boxes = torch.cat([truth.boxes for truth in truths]).float()
    classes = torch.cat([truth.classes for truth in truths])
    centres = torch.cat([mask_centroids(truth.masks) for truth in truths])
    filled = torch.cat([truth.masks.flatten(1).any(1) for truth in truths])
    counts = torch.tensor([len(truth.boxes) for truth in truths], device=boxes.device)
    image = torch.arange(len(truths), device=boxes.device).repeat_interleave(counts, output_size=len(boxes))

    taken, cells = _regions(layout, boxes, centres, frame)
    where = torch.nonzero(taken & filled[:, None, None], as_tuple=True)  # waits for the device
    row, cell = where[1], cells[where]
    # The last of all instances that claim a cell gives it its class. If none does, index -1 reads the padding at the end.
    num_cells = sum(layout.counts)
    last = torch.full((len(truths) * num_cells,), -1, device=boxes.device)
    last = last.scatter_reduce(0, image[row] * num_cells + cell, row, "amax")
    labels = F.pad(classes, (0, 1), value=num_classes)[last]
    return GridTargets(
        image=image[row],
        cell=cell,
        instance=row - (counts.cumsum(0) - counts)[image[row]],
        labels=labels.view(len(truths), num_cells),
    )


def _regions(layout: GridLayout, boxes: Tensor, centres: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The 3 x 3 cells around each of K centres on each level: which are taken, (L, K, 3, 3) bool, and their numbers."""
    device = boxes.device
    sizes = torch.tensor(layout.sizes, device=device)
    sides = boxes[:, 2:] - boxes[:, :2]
    scale = sides.prod(1).sqrt()
    low, high = torch.tensor(layout.scale_ranges, dtype=torch.float32, device=device).T[..., None]
    fits = (scale >= low) & (scale <= high)
    half = 0.5 * sides * layout.sigma
    (row, row_taken), (column, column_taken) = (
        _spans(centres[:, axis], half[:, axis], frame[1 - axis], sizes) for axis in (1, 0)
    )
    starts = sizes.square().cumsum(0) - sizes.square()
    cells = (starts[:, None, None] + row * sizes[:, None, None])[..., None] + column[:, :, None]
    return fits[..., None, None] & row_taken[..., None] & column_taken[:, :, None], cells


def _spans(centre: Tensor, half: Tensor, side: int, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The cells along one axis, at most one away from the centre's: (L, K, 3) indices, and which of them count."""

    def cell_of(position: Tensor) -> Tensor:
        # The expression is the published one: exactly on a boundary it can be one lower than position * size / side.
        return torch.div(position / side, 1 / sizes[:, None].float(), rounding_mode="floor").long()

    middle = cell_of(centre)
    first = torch.maximum(cell_of(centre - half).clamp(min=0), middle - 1)
    last = torch.minimum(torch.minimum(cell_of(centre + half), sizes[:, None] - 1), middle + 1)
    index = first[..., None] + torch.arange(3, device=centre.device)
    return index, index <= last[..., None]
