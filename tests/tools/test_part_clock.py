"""Parts of a pass: whose time is whose, forward and backward; and that segmenters mark them."""

from collections.abc import Iterator
from typing import Any

import part_clock
import pytest
import torch
from detectron2.utils.events import EventStorage
from part_clock import OTHER, PartClock
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from adet_iuq.modeling.parts import part
from helpers.grid_checks import grid_options
from helpers.scenes import SMALL_MASK2FORMER, discs, small_model

RECIPES: dict[str, tuple[str, ...]] = {
    "CondInst/R50_1x_iuq.yaml": (),
    "SOLOv2/R50_1x_iuq.yaml": grid_options("SOLOV2"),
    "SOTR/R50_iuq.yaml": grid_options("SOTR"),
    "Mask2Former/R50_50ep_iuq.yaml": tuple(SMALL_MASK2FORMER),
}


class Time:
    """Stands still until work is done."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    stopped = Time()
    monkeypatch.setattr(part_clock, "time", stopped)
    yield stopped


class Work(torch.autograd.Function):
    """Takes `seconds` forward and ten times that backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, time: Time, seconds: float) -> Tensor:
        ctx.time, ctx.seconds = time, seconds
        time.now += seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.time.now += 10 * ctx.seconds
        return gradients[0], None, None


def seconds(clock: PartClock) -> dict[str, tuple[float, float]]:
    return {name: (times.forward, times.backward) for name, times in clock.times.items()}


def test_every_second_belongs_to_the_innermost_part_forward_and_backward(time: Time) -> None:
    weight = torch.ones(3, requires_grad=True)

    @part("heads")
    def heads(x: Tensor) -> Tensor:
        return Work.apply(x, time, 4.0)

    with PartClock() as clock:
        time.now += 0.25
        with part("backbone"):
            x = Work.apply(weight, time, 1.0)
        x = heads(x)
        with part("losses"):
            x = Work.apply(x, time, 16.0)
            with part("targets"):
                time.now += 64.0
                with torch.no_grad():
                    Work.apply(x, time, 64.0)
            loss = Work.apply(x, time, 0.5).sum() + Work.apply(weight, time, 0.5).sum()
        clock.backward(loss)
        time.now += 0.5
    expected = {
        OTHER: (0.75, 0.0),
        "backbone": (1.0, 10.0),
        "heads": (4.0, 40.0),
        "losses": (17.0, 170.0),
        "targets": (128.0, 0.0),
    }
    assert seconds(clock) == expected
    assert sum(times.total for times in clock.times.values()) == time.now
    assert torch.equal(weight.grad, torch.full((3,), 2.0))  # type: ignore[arg-type]


def test_a_clock_adds_up_several_passes_and_stops(time: Time) -> None:
    clock = PartClock()
    for _ in range(2):
        with clock, part("nms"):
            time.now += 2.0
    with part("nms"):
        time.now += 100.0
    assert seconds(clock) == {OTHER: (0.0, 0.0), "nms": (4.0, 0.0)}


def test_an_error_leaves_the_clock_in_order(time: Time) -> None:
    clock = PartClock()
    with pytest.raises(KeyError), clock, part("heads"), part("nms"):
        time.now += 1.0
        raise KeyError
    with clock, part("heads"):
        time.now += 3.0
    assert seconds(clock) == {OTHER: (0.0, 0.0), "heads": (3.0, 0.0), "nms": (1.0, 0.0)}


def test_profilers_show_the_parts() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler, part("postprocess"):
        torch.ones(1)
    assert "postprocess" in {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_segmenters_mark_their_parts(recipe: str) -> None:
    model = small_model(recipe, *RECIPES[recipe])
    with EventStorage(), PartClock() as clock:
        losses = model([discs(96, 128, 3, seed=1), discs(128, 96, 3, seed=2)])
        clock.backward(torch.stack(list(losses.values())).sum())
    assert {name for name, times in clock.times.items() if times.forward > 0} == {
        *("backbone", "heads", "targets", "losses", "iuq"),
        OTHER,
    }
    for name in ("backbone", "heads", "losses", "iuq"):
        assert clock.times[name].backward > 0
    assert clock.times["targets"].backward == 0
    model.eval()
    with torch.no_grad(), PartClock() as clock:
        model([{"image": torch.zeros(3, 96, 128)}])
    assert set(clock.times) == {"backbone", "heads", "nms", "postprocess", OTHER}
