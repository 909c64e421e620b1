"""Deformable attention, which loops over images and heads, beside one grid_sample for each map: time, peak, difference."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from benchmarking import alternate, peak_bytes
from torch import Tensor

from adet_iuq.modeling.layers import deformable_attention
from helpers.deformable_twin import grid_sample_attention, random_inputs

from .stage import OK, Row, Settings, megabytes, milliseconds, timed

# The maps of an image of 800 x 1333, padded to 800 x 1344, as Mask2Former's encoder reads them.
_SIZES, _TINY = [(25, 42), (50, 84), (100, 168)], [(2, 3), (4, 6), (7, 12)]
_TOLERANCE = 1e-4  # of the largest value; outputs and the gradients of values only: others jump where two cells meet
_FUNCTIONS = {"ours": deformable_attention, "grid_sample": grid_sample_attention}


def rows(settings: Settings) -> Iterator[Row]:
    """Two rows, ours and the twin, for each number of images."""
    sizes = settings.pick(_SIZES, _TINY)
    for images in settings.pick((1, 2, 8), (2,)):
        inputs = random_inputs(sizes, images, heads=8, channels=32, device=settings.device)
        steps = {name: partial(attend, function, inputs, sizes) for name, function in _FUNCTIONS.items()}
        expected = steps["grid_sample"]()
        times = alternate([partial(timed, step, settings.device) for step in steps.values()], settings.pick(5, 1))
        for (name, step), mine in zip(steps.items(), times, strict=True):
            difference = max(map(relative_difference, step()[:2], expected[:2]))
            yield {
                OK: difference <= _TOLERANCE,
                "computed": name,
                "images": images,
                "ms, forward and backward": milliseconds(mine),
                "ms, forward": milliseconds(
                    [timed(partial(forward, _FUNCTIONS[name], inputs, sizes), settings.device)]
                ),
                "peak MB": megabytes(peak_bytes(step, settings.device)),
                "difference": float(f"{difference:.2g}"),
            }


def attend(function: Callable[..., Tensor], inputs: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
    """The output and the gradients of its sum of squares, those of the values first."""
    value, locations, weights = inputs
    output = function(value, sizes, locations, weights)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), inputs)]


@torch.no_grad()
def forward(function: Callable[..., Tensor], inputs: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
    """The output alone."""
    value, locations, weights = inputs
    return function(value, sizes, locations, weights)


def relative_difference(ours: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value."""
    return float((ours - expected).abs().max() / expected.abs().max())
