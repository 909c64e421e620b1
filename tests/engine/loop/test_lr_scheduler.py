from typing import Any

import pytest
import torch
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from adet_iuq.config import get_cfg
from adet_iuq.engine.loop.lr_scheduler import PolyLR, build_lr_scheduler
from adet_iuq.errors import UserError


def rates(max_iter: int, **solver: object) -> list[float]:
    """The learning rate used in every iteration."""
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = max_iter, 0.5
    cfg.SOLVER.merge_from_list([part for pair in solver.items() for part in pair])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    used = []
    for _ in range(max_iter):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


def test_poly_follows_its_formula() -> None:
    used = rates(50, LR_SCHEDULER_NAME="WarmupPolyLR", WARMUP_ITERS=0, POLY_LR_POWER=0.9)
    assert used == pytest.approx([0.5 * (1 - t / 50) ** 0.9 for t in range(50)])


def test_poly_warms_up_linearly_from_the_factor() -> None:
    used = rates(50, LR_SCHEDULER_NAME="WarmupPolyLR", WARMUP_ITERS=10, WARMUP_FACTOR=0.1)
    expected = [0.5 * (0.1 + 0.9 * min(t / 10, 1)) * (1 - t / 50) ** 0.9 for t in range(50)]
    assert used == pytest.approx(expected)


def test_poly_does_not_fall_below_its_constant_ending() -> None:
    used = rates(20, LR_SCHEDULER_NAME="WarmupPolyLR", WARMUP_ITERS=0, POLY_LR_CONSTANT_ENDING=0.2)
    assert min(used) == pytest.approx(0.1)
    assert used[1] == pytest.approx(0.5 * 0.95**0.9)


def test_steps_are_detectron2s() -> None:
    used = rates(10, LR_SCHEDULER_NAME="WarmupMultiStepLR", WARMUP_ITERS=0, STEPS=(4, 8))
    assert used == pytest.approx([0.5] * 4 + [0.05] * 4 + [0.005] * 2)


def test_steps_at_and_after_the_end_are_left_out() -> None:
    used = rates(10, LR_SCHEDULER_NAME="WarmupMultiStepLR", WARMUP_ITERS=0, STEPS=(4, 10, 20))
    assert used == pytest.approx([0.5] * 4 + [0.05] * 6)


@pytest.mark.parametrize("ending", [0.0, 0.3])
@pytest.mark.parametrize("method", ["linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 10, 150])
def test_poly_equals_the_product_that_earlier_versions_computed(warmup: int, method: str, ending: float) -> None:
    """In all iterations, to the last digits: it was warmup(t) times the decay as a function of t / T."""
    factor = 0.25
    used = rates(
        150, LR_SCHEDULER_NAME="WarmupPolyLR", WARMUP_ITERS=warmup, WARMUP_FACTOR=factor, WARMUP_METHOD=method,
        POLY_LR_CONSTANT_ENDING=ending,
    )  # fmt: skip
    for iteration, rate in enumerate(used):
        share = iteration / warmup if method == "linear" and warmup else 0.0
        decay = (1 - iteration / 150) ** 0.9
        is_warm = iteration >= warmup
        expected = max(decay, ending) if is_warm else (factor * (1 - share) + share) * decay
        assert rate == pytest.approx(0.5 * expected, rel=1e-14, abs=0)


def test_a_poly_schedule_goes_on_from_checkpoints_of_earlier_versions_with_the_iterations_of_its_config() -> None:
    """They hold what detectron2's LRMultiplier keeps, and so do those of today."""
    schedule, optimizer = poly(max_iter=20)
    earlier = detectron2_multiplier(max_iter=10)
    assert schedule.state_dict() == earlier.state_dict() | {"last_epoch": 0}
    schedule.load_state_dict(earlier.state_dict())
    optimizer.step()
    schedule.step()
    assert schedule.last_epoch == 6 and schedule.get_last_lr() == pytest.approx([0.5 * (1 - 6 / 20) ** 0.9])


def poly(max_iter: int) -> tuple[Any, torch.optim.Optimizer]:
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = "WarmupPolyLR", max_iter, 0
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    return build_lr_scheduler(cfg, optimizer), optimizer


def detectron2_multiplier(max_iter: int) -> LRMultiplier:
    """After five iterations."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    multiplier = LRMultiplier(optimizer, PolynomialDecayParamScheduler(1.0, 0.9), max_iter)
    for _ in range(5):
        optimizer.step()
        multiplier.step()
    return multiplier


@pytest.mark.parametrize("ending", [0.0, 0.25])
def test_after_its_last_iteration_a_poly_schedule_stays_where_it_is(ending: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    schedule = PolyLR(torch.optim.SGD([weight], lr=2.0), 3, warmup_iters=0, constant_ending=ending)
    used = []
    for _ in range(5):
        schedule.optimizer.step()
        schedule.step()
        used.append(schedule.get_last_lr()[0])
    assert used[2:] == [2.0 * ending] * 3 and used[0] > used[1] > used[2]


def test_an_unknown_warmup_is_refused() -> None:
    with pytest.raises(UserError, match='WARMUP_METHOD is "cosine"'):
        rates(10, LR_SCHEDULER_NAME="WarmupPolyLR", WARMUP_METHOD="cosine")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="WarmupPolyLR, WarmupMultiStepLR"):
        rates(10, LR_SCHEDULER_NAME="PolyLR")
