"""What comes after the network: 0, 1 and 300 masks of an image, as a tensor and as run lengths, are those of the CPU; and a
training step of every segmenter on images without any instance ends with a finite loss.
"""

from collections.abc import Callable, Iterator

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from adet_iuq.engine import Trainer
from adet_iuq.modeling.layers import encoded_masks, paste_masks, pasted_masks

from .models import RECIPES, TINY_SIZE, batch, config, logged, train_step
from .stage import OK, Row, Settings, milliseconds, timed

_STRIDE = 4
_INPUT, _OUTPUT = (800, 1333), (480, 800)
_TOLERANCE = 1e-5  # of the pixels: where rounding decides whether a mask is above the threshold


def rows(settings: Settings) -> Iterator[Row]:
    """Two rows for each number of masks, and one for each segmenter."""
    for count in settings.pick((0, 1, 300), (0, 1, 3)):
        yield from masks(count, settings)
    for segmenter in RECIPES:
        yield {"computed": "a step without instances", "of": segmenter, **empty_step(segmenter, settings)}


def masks(count: int, settings: Settings) -> Iterator[Row]:
    """A row for the masks as a tensor, and one for them as run lengths, beside those of the CPU."""
    maps = blurred_ellipses(count)
    expected = paste_masks(maps, _STRIDE, _INPUT, _OUTPUT)
    here = maps.to(settings.device)
    ways: dict[str, Callable[[], Tensor]] = {
        "tensor": lambda: paste_masks(here, _STRIDE, _INPUT, _OUTPUT),
        "run lengths": lambda: encoded_masks(pasted_masks(here, _STRIDE, _INPUT, _OUTPUT), _OUTPUT).decoded(),
    }
    for name, way in ways.items():
        found = way().cpu()
        different = int((found != expected).sum())
        yield {
            OK: found.shape == expected.shape and different <= _TOLERANCE * max(expected.numel(), 1),
            "computed": f"{count} masks",
            "of": name,
            "ms": milliseconds([timed(way, settings.device) for _ in range(settings.pick(5, 1))]),
            "different pixels": different,
        }


def blurred_ellipses(count: int) -> Tensor:
    """(count, 200, 336) probabilities of masks at a quarter of 800 x 1344: ellipses of all sizes with soft borders."""
    draws = torch.rand(count, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    y, x = torch.arange(200.0)[:, None] / 200, torch.arange(336.0) / 336
    far = ((y - draws[:, 0]) / (0.02 + 0.3 * draws[:, 2])) ** 2 + ((x - draws[:, 1]) / (0.02 + 0.3 * draws[:, 3])) ** 2
    return (4 * (1 - far)).sigmoid()


def empty_step(segmenter: str, settings: Settings) -> Row:
    """The loss of one step of the segmenter with both terms, on an image without annotations."""
    cfg = config(segmenter, settings, "SOLVER.IMS_PER_BATCH", 2)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    images = batch(cfg, settings.pick((512, 512), TINY_SIZE), instances=0, images=1)
    step = train_step(model, Trainer.build_optimizer(cfg, model), images, cfg, None)
    with EventStorage():
        step.run_step()
        total = logged("total_loss")
    return {OK: total is not None and bool(torch.tensor(total).isfinite()), "last loss": total}
