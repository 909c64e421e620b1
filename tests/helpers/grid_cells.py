"""Grid targets as sets of cells, to compare those of an image and of its mirror image."""

import torch
from torch import Tensor

from adet_iuq.modeling.grid import GridLayout, GridTargets


def cells_of_instances(targets: GridTargets, layout: GridLayout, count: int) -> list[set[tuple[int, int, int]]]:
    """(level, row, column) of the cells of each of the `count` instances of one image."""
    places = [(level, *divmod(i, size)) for level, size in enumerate(layout.sizes) for i in range(size**2)]
    found: list[set[tuple[int, int, int]]] = [set() for _ in range(count)]
    for number, k in zip(targets.cell.tolist(), targets.instance.tolist(), strict=True):
        found[k].add(places[number])
    return found


def is_sharp(mask: Tensor, side: float) -> bool:
    """Whether no boundary between cells, `side` pixels wide, is within a pixel of the centre column or an end of the region.

    Boundaries are rounded as published, not alike on both sides, and pixel indices are mirrored to one less than edges.
    """
    columns = torch.nonzero(mask)[:, 1].float()
    half = 0.1 * float(columns.max() - columns.min() + 1)
    marks = columns.mean() + torch.tensor([0.0, -half, half])
    return bool(((marks / side - (marks / side).round()).abs() * side > 1).all())
