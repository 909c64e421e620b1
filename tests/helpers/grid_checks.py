"""Small models of the segmenters whose queries are grid cells (SOLOv2, SOTR), and what their tests measure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from adet_iuq.modeling.solov2 import SOLOv2, SOLOv2IUQ
from adet_iuq.modeling.sotr import SOTR, SOTRIUQ
from helpers.scenes import discs, small_model

# Instance-unique querying from the first iteration on.
AT_ONCE = ("MODEL.IUQ.INTER.START_ITER", "0", "MODEL.IUQ.INTER.RAMP_ITERS", "0")
BASE_LOSSES = {"loss_ins", "loss_cate"}
TRANSFORMER = "cate_head.transformer."


def grid_options(section: str) -> tuple[str, ...]:
    """Overrides that make a model of MODEL.<section> small, with discs of about 20 to 60 pixels on several levels."""
    keys = {
        "NUM_CLASSES": "3",
        "NUM_GRIDS": "[5, 4, 4, 3, 2]",
        "FPN_SCALE_RANGES": "((1, 32), (24, 48), (40, 96), (64, 192), (128, 2048))",
        "MASK_CHANNELS": "64",
        "NUM_KERNELS": "32",
        "NUM_MASKS": "32",
    }
    return tuple(word for key, value in keys.items() for word in (f"MODEL.{section}.{key}", value))


SMALL_SOLOV2 = (
    *grid_options("SOLOV2"), "MODEL.SOLOV2.INSTANCE_CHANNELS", "32", "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.SOLOV2.INSTANCE_IN_CHANNELS", "32", "MODEL.SOLOV2.MASK_IN_CHANNELS", "32",
)  # fmt: skip
SMALL_SOTR = (*grid_options("SOTR"), "MODEL.SOTR.TRANSFORMER_DEPTH", "2")


def quieten(model: Any) -> None:
    """Weakens the stem, as the goldens do: no norm follows, and random weights would saturate every sigmoid."""
    model.backbone.bottom_up.stem.conv1.norm.weight.fill_(0.01)


def open_gates(model: Any) -> None:
    """As after some training; with the gates shut a transformer's inner weights get no gradient at all."""
    for name, parameter in model.named_parameters():
        if name.startswith(TRANSFORMER) and name.endswith(".g"):
            nn.init.constant_(parameter, 0.1)


@dataclass(frozen=True)
class GridCase:
    """One segmenter: its recipes, and what makes its models small.

    Attributes:
        section: of the config, MODEL.<section>.
        base, iuq: the classes.
        recipe: as published.
        paper, iuq_recipe: on the paper's schedule, without and with instance-unique querying.
        small: overrides.
        prepare: makes a model still smaller.
    """

    section: str
    base: type
    iuq: type
    recipe: str
    paper: str
    iuq_recipe: str
    small: tuple[str, ...]
    prepare: Callable[[Any], None]

    def model(self, recipe: str, *overrides: str, seed: int = 0) -> Any:
        """A quiet model that detects every cell, with instance-unique querying from the first iteration on."""
        detected = (f"MODEL.{self.section}.SCORE_THR", "0.0", f"MODEL.{self.section}.UPDATE_THR", "0.0")
        model = small_model(recipe, *self.small, *AT_ONCE, *detected, *overrides, seed=seed)
        assert type(model) is (self.iuq if recipe == self.iuq_recipe else self.base)
        self.prepare(model)
        quieten(model)
        return model


CASES = {
    "solov2": GridCase(
        section="SOLOV2",
        base=SOLOv2,
        iuq=SOLOv2IUQ,
        recipe="SOLOv2/R50_1x.yaml",
        paper="SOLOv2/R50_1x_paper.yaml",
        iuq_recipe="SOLOv2/R50_1x_iuq.yaml",
        small=SMALL_SOLOV2,
        prepare=lambda model: None,
    ),
    "sotr": GridCase(
        section="SOTR",
        base=SOTR,
        iuq=SOTRIUQ,
        recipe="SOTR/R50.yaml",
        paper="SOTR/R50_paper.yaml",
        iuq_recipe="SOTR/R50_iuq.yaml",
        small=SMALL_SOTR,
        prepare=open_gates,
    ),
}

# Batches of sizes that break careless code: all of them together, and the hardest alone; an image of one pixel is an
# instance as well.
SIZES: dict[str, list[tuple[int, int]]] = {
    "mixed": [(64, 96), (1, 1), (300, 20), (33, 33)],
    "from 1 to 2000": [(1, 1), (33, 47), (2000, 64)],
    "1 x 1": [(1, 1)],
    "33 x 33": [(33, 33)],
    "64 x 2000": [(64, 2000)],
    "1 x 2000": [(1, 2000)],
    "2000 x 1": [(2000, 1)],
}


def check_sizes(model: Any, sizes: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Images of these sizes train together, and each gets masks of its own size; returns the losses."""
    inputs = [discs(*size, 2 if max(size) > 1 else 0, seed=index) for index, size in enumerate(sizes)]
    inputs = [one_pixel() if size == (1, 1) else one for one, size in zip(inputs, sizes, strict=True)]
    losses, _ = train_step(model, inputs)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    reached = gradient_sizes(model, torch.stack(list(losses.values())).sum())
    assert all(size < float("inf") for size in reached.values())  # false for NaN, too
    with torch.no_grad():
        model.eval()
        found = [result["instances"] for result in model(inputs)]
        model.train()
    assert [one.pred_masks.shape[1:] for one in found] == sizes and all(len(one) for one in found)
    return losses


def one_pixel() -> dict[str, Any]:
    """A training input of one pixel, which is an instance."""
    inputs = discs(1, 1, 1, seed=100)
    inputs["instances"].gt_masks = BitMasks(torch.ones(1, 1, 1, dtype=torch.bool))
    inputs["instances"].gt_boxes = inputs["instances"].gt_masks.get_bounding_boxes()
    return inputs


def two_scenes() -> list[dict[str, Any]]:
    """Two training inputs of different size."""
    return [discs(96, 128, 4, seed=1), discs(128, 96, 3, seed=2)]


def train_step(model: Any, inputs: list[dict[str, Any]], times: int = 1) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses of the last of so many forward passes, and what was logged."""
    with EventStorage() as storage:
        for _ in range(times):
            losses = model(inputs)
        return losses, {name: value for name, (value, _) in storage.latest().items()}


def gradient_sizes(model: Any, loss: Tensor) -> dict[str, float]:
    """Sum of absolute gradients of every parameter; 0.0 where the loss does not reach."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: 0.0 if parameter.grad is None else parameter.grad.abs().sum().item()
        for name, parameter in model.named_parameters()
    }


def check_empty_batch_trains_every_parameter(case: GridCase, recipe: str) -> None:
    """Without a single instance all losses are finite, those of masks zero, and every parameter has a gradient."""
    model = case.model(recipe, "MODEL.BACKBONE.FREEZE_AT", "0")
    losses, _ = train_step(model, [discs(64, 64, 0, seed=1), discs(64, 96, 0, seed=2)])
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(loss == 0 for name, loss in losses.items() if name != "loss_cate")
    assert not [name for name, p in model.named_parameters() if p.grad is None]
