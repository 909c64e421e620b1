"""Does every segmenter train in float16 (with the gradient scaler) and in bfloat16 without a value that is not finite, and
does it make as many queries as in float32? Targets that a dtype cannot hold are lost without any other sign.
"""

from collections.abc import Iterator
from typing import Any

import torch
from detectron2.utils.events import EventStorage

from adet_iuq.engine import Trainer
from adet_iuq.engine.loop.guards import NonFiniteLossError
from adet_iuq.engine.loop.step import TrainStep
from adet_iuq.modeling import IUQMetaArch

from .models import LIVE_NORMS, RECIPES, TINY_SIZE, batch, config, logged, train_step
from .stage import OK, Row, Settings, milliseconds, timed

_RATE = 1e-4  # as in a warm-up: random weights


def rows(settings: Settings) -> Iterator[Row]:
    """A row for each segmenter and dtype; a dry run has bfloat16 only, as the CPU does not train in float16."""
    for segmenter in RECIPES:
        for dtype in settings.pick((torch.float16, torch.bfloat16), (torch.bfloat16,)):
            yield {
                "segmenter": segmenter,
                "dtype": str(dtype).removeprefix("torch."),
                **train(segmenter, dtype, settings),
            }


def train(segmenter: str, dtype: torch.dtype, settings: Settings) -> Row:
    """Some steps with both losses, and what they left behind."""
    cfg = config(segmenter, settings, *LIVE_NORMS, "SOLVER.BASE_LR", _RATE, "SOLVER.IMS_PER_BATCH", 2)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    assert isinstance(model, IUQMetaArch)
    images = batch(cfg, settings.pick((512, 512), TINY_SIZE), instances=settings.pick(8, 2), images=1)
    queries, expected = (count_queries(model, images, one, settings.device) for one in (dtype, None))
    step = train_step(model, Trainer.build_optimizer(cfg, model), images, cfg, dtype)
    scale, seconds, problem = step.grad_scaler.get_scale(), [], ""
    with EventStorage():
        try:
            seconds = [timed(step.run_step, settings.device) for _ in range(settings.pick(12, 2))]
        except NonFiniteLossError as error:
            problem = str(error).split(".")[0]
        total = logged("total_loss")
    left = non_finite(step)
    return {
        OK: not problem and not left and queries == expected,
        "queries": f"{queries}, in float32 {expected}",
        "steps": len(seconds),
        "ms a step": milliseconds(seconds[1:]) if seconds[1:] else None,
        "last loss": total,
        "scale": f"{scale:g} to {step.grad_scaler.get_scale():g}",
        "not finite": problem or ", ".join(left[:3]),
    }


def count_queries(model: IUQMetaArch, images: list[dict[str, Any]], dtype: torch.dtype | None, device: str) -> int:
    """The number of queries of one forward pass under autocast to `dtype`; None: in float32."""
    enabled = torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None)
    with torch.no_grad(), enabled, EventStorage():
        return len(model.training_pass(images).image_index)


def non_finite(step: TrainStep) -> list[str]:
    """The names of parameters that hold a value that is not finite, or have such a gradient.

    After a step that the scaler skipped, which it does to find its scale, gradients are not finite and say nothing.
    """
    values = {name: value.detach() for name, value in step.model.named_parameters()}
    if not step.grad_scaler.is_enabled():
        grads = {f"gradient of {name}": value.grad for name, value in step.model.named_parameters()}
        values |= {name: grad for name, grad in grads.items() if grad is not None}
    return [name for name, value in values.items() if not value.isfinite().all()]
