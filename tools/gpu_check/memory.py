"""Peak memory of a training step of every segmenter, without the method and with both losses."""

from collections.abc import Iterator

import torch
from benchmarking import peak_bytes

from .models import FULL_SIZE, RECIPES, TINY_SIZE, batch, config, steppers
from .stage import Row, Settings, megabytes

_SQUARE = (1024, 1024)  # Mask2Former's large-scale jitter


def rows(settings: Settings) -> Iterator[Row]:
    """A row for each segmenter and setting: what a step of 2 views takes beside weights, optimiser and pixel memory."""
    for segmenter in RECIPES:
        cfg = config(segmenter, settings)
        dtype = torch.bfloat16 if cfg.SOLVER.AMP.ENABLED else None
        size = settings.pick(_SQUARE if segmenter == "Mask2Former" else FULL_SIZE, TINY_SIZE)
        inputs = batch(cfg, size, instances=settings.pick(8, 2))
        with steppers(cfg, ("off", "both paired"), inputs, dtype) as found:
            for one in found:
                yield {
                    "segmenter": segmenter,
                    "precision": "float32" if dtype is None else "bfloat16",
                    "size": f"{len(inputs)} x {size[0]} x {size[1]}",
                    "setting": one.setting,
                    "peak MB": megabytes(peak_bytes(one, settings.device)),
                }
