"""NCCL with one rank (gloo on the CPU): the kinds of collective calls that the package makes, and a step under
DistributedDataParallel.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from adet_iuq.engine import Trainer

from .models import FULL_SIZE, TINY_SIZE, batch, config, logged, train_step
from .stage import OK, Row, Settings, milliseconds, timed


def rows(settings: Settings) -> Iterator[Row]:
    """A row for each kind of call, and one for the step."""
    backend = settings.pick("nccl", "gloo")
    if settings.device == "cuda":
        torch.cuda.set_device(0)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, f"file://{Path(folder) / 'meeting'}", world_size=1, rank=0)
        try:
            for name, call in calls(settings).items():
                right = bool(call())
                seconds = [timed(call, settings.device) for _ in range(settings.pick(20, 2))]
                yield {OK: right, "backend": backend, "call": name, "ms": milliseconds(seconds)}
            yield {"backend": backend, **distributed_step(settings)}
        finally:
            dist.destroy_process_group()


def calls(settings: Settings) -> dict[str, Callable[[], Tensor]]:
    """What the package calls, each with whether its result is right: sums, and rows packed into bytes (0.13 MB and 3 MB)."""

    def sums() -> Tensor:
        values = torch.arange(8.0, device=settings.device)
        dist.all_reduce(values)
        return (values == torch.arange(8.0, device=settings.device)).all()

    def gathered(count: int) -> Tensor:
        rows = torch.arange(count, device=settings.device).to(torch.uint8)
        found = [torch.empty_like(rows)]
        dist.all_gather(found, rows)
        return (found[0] == rows).all()

    return {
        "sum of losses": sums,
        "rows of D 8": partial(gathered, 130_000),
        "rows of D 256": partial(gathered, 3_000_000),
    }


def distributed_step(settings: Settings) -> Row:
    """CondInst with both losses under DistributedDataParallel: its total loss is that of the bare model."""
    cfg = config("CondInst", settings, "SOLVER.BASE_LR", 0.0)
    inputs = batch(cfg, settings.pick(FULL_SIZE, TINY_SIZE), instances=2, images=1)
    totals = []
    for distributed in (False, True):
        torch.manual_seed(0)
        bare = Trainer.build_model(cfg)
        optimizer = Trainer.build_optimizer(cfg, bare)
        step = train_step(bare, optimizer, inputs, cfg, None)
        if distributed:
            devices = [0] if settings.device == "cuda" else None
            step.model = DistributedDataParallel(bare, device_ids=devices, broadcast_buffers=False)
        with EventStorage():
            step.run_step()
            totals.append(logged("total_loss") or 0.0)
            seconds = [timed(step.run_step, settings.device) for _ in range(settings.pick(5, 1))]
    same = abs(totals[0] - totals[1]) <= 1e-3 * abs(totals[0])
    return {OK: same, "call": "step of CondInst under DistributedDataParallel", "ms": milliseconds(seconds)}
