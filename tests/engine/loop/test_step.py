from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from adet_iuq.config import get_cfg
from adet_iuq.engine.loop.step import TrainStep, autocast_dtype
from adet_iuq.errors import UserError
from helpers.toy_segmenter import BareSegmenter


class Line(BareSegmenter):
    """Losses 3 * w . x and w . x; remembers the dtype it computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1, bias=False)
        self.dtypes: list[torch.dtype] = []
        self.iterations: list[int] = []

    def set_iteration(self, iteration: int) -> None:
        self.iterations.append(iteration)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        value = self.layer(torch.stack([inputs["x"] for inputs in batch])).mean()
        self.dtypes.append(value.dtype)
        return {"loss_a": 3 * value, "loss_b": value}


def run(cfg: CfgNode, steps: int = 1) -> tuple[Line, Tensor, EventStorage]:
    """A model after some steps on x = (1, 2), the weights it started from, and what was written."""
    torch.manual_seed(0)
    model = Line()
    before = model.layer.weight.detach().clone()
    step = TrainStep(model, build_optimizer(cfg, model), "cpu", autocast_dtype(cfg))
    step.data_loader = [[{"x": torch.tensor([1.0, 2.0])}]] * steps
    with EventStorage() as storage:
        for step.iter in range(steps):
            step.run_step()
    return model, before, storage


@pytest.fixture
def cfg() -> CfgNode:
    """Plain gradient descent."""
    config = get_cfg()
    config.MODEL.DEVICE = "cpu"
    config.SOLVER.BASE_LR, config.SOLVER.MOMENTUM, config.SOLVER.WEIGHT_DECAY = 0.1, 0.0, 0.0
    return config


def test_a_step_descends_the_sum_of_the_losses_and_writes_each(cfg: CfgNode) -> None:
    model, before, storage = run(cfg)
    assert torch.allclose(model.layer.weight, before - 0.1 * 4 * torch.tensor([1.0, 2.0]))
    value = float((before @ torch.tensor([1.0, 2.0])).item())
    latest = {name: scalar for name, (scalar, _) in storage.latest().items()}
    assert latest["loss_a"] == pytest.approx(3 * value) and latest["loss_b"] == pytest.approx(value)
    assert latest["total_loss"] == pytest.approx(4 * value)


def test_the_model_hears_the_iteration(cfg: CfgNode) -> None:
    assert run(cfg, steps=3)[0].iterations == [0, 1, 2]


def test_bfloat16_works_on_the_cpu(cfg: CfgNode) -> None:
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = True, "bfloat16"
    model, before, _ = run(cfg)
    assert model.dtypes == [torch.bfloat16]
    assert torch.allclose(model.layer.weight, before - 0.1 * 4 * torch.tensor([1.0, 2.0]), rtol=0.02)


def test_float16_on_the_cpu_is_refused_with_a_way_out(cfg: CfgNode) -> None:
    cfg.SOLVER.AMP.ENABLED = True
    with pytest.raises(UserError, match=r"SOLVER\.AMP\.DTYPE bfloat16"):
        autocast_dtype(cfg)
    cfg.SOLVER.AMP.DTYPE = "half"
    with pytest.raises(UserError, match="float16 or bfloat16"):
        autocast_dtype(cfg)


def test_gradients_are_clipped(cfg: CfgNode) -> None:
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = True, 0.5
    model, before, _ = run(cfg)
    assert torch.allclose(model.layer.weight, before - 0.1 * 0.5)
