import pytest
import torch

from adet_iuq.config import get_cfg
from adet_iuq.engine.loop.lr_scheduler import build_lr_scheduler
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


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="WarmupPolyLR, WarmupMultiStepLR"):
        rates(10, LR_SCHEDULER_NAME="PolyLR")
