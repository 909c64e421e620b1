"""The share of the method in a training step of CondInst R50, 2 x 800 x 1333, 100,000 pixels in the memory.

The paper's Table 3 has 1.51 hours an epoch without the method and 1.59 with both losses: 5.3 % more.
"""

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from benchmarking import alternate

from .models import FULL_SIZE, PIXELS, TINY_PIXELS, TINY_SIZE, batch, config, logged, steppers
from .stage import Row, Settings, milliseconds, timed

_SETTINGS = ("off", "inter", "both paired")
_CAP, _NO_CAP = 100, -1
# Precision, instances an image (COCO has about 7; 30 reach CondInst's limit of 500 positives), and the cap on queries.
_CASES: tuple[tuple[torch.dtype | None, int, int], ...] = (
    (None, 8, _CAP),
    (None, 8, _NO_CAP),
    (None, 30, _NO_CAP),
    (torch.bfloat16, 8, _CAP),
    (torch.bfloat16, 30, _NO_CAP),
    (None, 30, _CAP),
)


def rows(settings: Settings) -> Iterator[Row]:
    """A row for each case and setting; all settings of a case are measured in turn."""
    for dtype, instances, cap in settings.pick(_CASES, _CASES[:2]):
        yield from compare(settings, dtype, instances, cap)


def compare(settings: Settings, dtype: torch.dtype | None, instances: int, cap: int) -> Iterator[Row]:
    """Steps of the base segmenter, with the inter-scene loss, and with both losses."""
    cfg = config("CondInst", settings, "MODEL.IUQ.INTER.MAX_QUERIES", cap)
    inputs = batch(cfg, settings.pick(FULL_SIZE, TINY_SIZE), settings.pick(instances, 2))
    queries: dict[str, int] = {}
    with steppers(cfg, _SETTINGS, inputs, dtype) as found:
        times = alternate([partial(timed, one, settings.device) for one in found], settings.pick(6, 1))
        for one in found[1:]:
            one()
            queries[one.setting] = round((logged("iuq/num_valid_pairs") or 0) / settings.pick(PIXELS, TINY_PIXELS))
    for one, mine in zip(found, times, strict=True):
        ratio = median(a / b for a, b in zip(mine, times[0], strict=True))
        yield {
            "precision": "float32" if dtype is None else str(dtype).removeprefix("torch."),
            "instances": instances,
            "cap": "none" if cap == _NO_CAP else cap,
            "setting": one.setting,
            "queries": queries.get(one.setting),
            "ms a step": milliseconds(mine),
            "slowest": milliseconds([max(mine)]),
            "share %": round(100 * (ratio - 1), 2),
        }
