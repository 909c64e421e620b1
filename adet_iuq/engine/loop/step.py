"""One optimisation step: forward, backward, guard, update, in full or mixed precision, on any device."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adet_iuq.engine.loop.guards import stop_on_nonfinite
from adet_iuq.engine.loop.precision import automatic_dtype
from adet_iuq.engine.meta_arch import unwrap
from adet_iuq.errors import UserError

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

Batch = list[dict[str, Any]]


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The dtype of mixed precision; None if SOLVER.AMP is off, or if "auto" chooses float32.

    Raises:
        UserError: the dtype is unknown, or float16 on the CPU, where gradients cannot be scaled.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.SOLVER.AMP.DTYPE == "auto":
        return automatic_dtype(cfg.MODEL.DEVICE)
    if cfg.SOLVER.AMP.DTYPE not in _DTYPES:
        raise UserError(f'SOLVER.AMP.DTYPE is "{cfg.SOLVER.AMP.DTYPE}"; it can be auto, {" or ".join(_DTYPES)}.')
    if cfg.SOLVER.AMP.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        raise UserError(
            "SOLVER.AMP.DTYPE float16 needs a CUDA device. On the CPU set SOLVER.AMP.DTYPE bfloat16 or auto, or "
            "SOLVER.AMP.ENABLED False."
        )
    return _DTYPES[cfg.SOLVER.AMP.DTYPE]


class TrainStep:
    """Does what detectron2's SimpleTrainer and AMPTrainer do, on every device and dtype, with one host transfer per step.

    A step with k micro-batches equals a step on k times as many processes: each micro-batch is forwarded by itself, and
    the gradients and everything that is logged are means over micro-batches.

    Attributes:
        iter: the iteration of the next step; set by the trainer.
        data_loader: the endless batches; set before the first step.
        stop_wanted: whether this process wants to stop after the step; set by the trainer.
        stop_agreed: whether any process wanted to stop; set by each step, to the same value on all ranks.

    Args:
        model: a model that returns a dict of scalar losses in training; it is put into training mode here.
        optimizer: the optimiser. Gradient clipping, if any, is part of its `step`, as detectron2 builds it.
        device_type: "cuda" or "cpu".
        amp_dtype: the dtype of autocast; None: full precision. With float16 the loss is scaled.
        micro_batches: the number of equal parts in which a batch passes the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device_type: str,
        amp_dtype: torch.dtype | None,
        micro_batches: int = 1,
    ) -> None:
        model.train()
        self.model, self.optimizer = model, optimizer
        self.device_type, self.amp_dtype = device_type, amp_dtype
        self.micro_batches = micro_batches
        self.grad_scaler = torch.amp.GradScaler(device_type, enabled=amp_dtype == torch.float16)
        self.iter = 0
        self.stop_wanted: Callable[[], bool] = bool
        self.stop_agreed = False
        self._data_loader: Iterable[Batch] | None = None
        self._batches: Iterator[Batch] | None = None

    @property
    def data_loader(self) -> Iterable[Batch] | None:
        """The loader in use."""
        return self._data_loader

    @data_loader.setter
    def data_loader(self, loader: Iterable[Batch]) -> None:
        self._data_loader, self._batches = loader, None

    def run_step(self) -> None:
        """Takes a batch, updates the weights, and writes the losses to the event storage.

        Raises:
            NonFiniteLossError: a loss is not finite. All ranks raise it before the weights change.
        """
        assert self.model.training, "the model is not in training mode"
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start

        unwrap(self.model).set_iteration(self.iter)
        self.optimizer.zero_grad()
        losses = self._accumulate(batch)

        # Reading the losses waits for the device, so it happens after the backward pass is queued.
        means = self._check(losses, batch)
        storage = get_event_storage()
        storage.put_scalar("data_time", data_time)
        storage.put_scalar("total_loss", sum(means.values()))
        for name, value in means.items():
            storage.put_scalar(name, value)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _next_batch(self) -> Batch:
        assert self._data_loader is not None, "data_loader is not set"
        if self._batches is None:
            self._batches = iter(self._data_loader)
        batch = next(self._batches, None)
        if batch is None:  # a loader from outside may end after one pass over its data
            self._batches = iter(self._data_loader)
            batch = next(self._batches, None)
        if batch is None:
            raise UserError("The training loader has no batch.")
        return batch

    def _accumulate(self, batch: Batch) -> list[dict[str, Tensor]]:
        """The forward and backward pass of every micro-batch. The ranks exchange gradients in the last one only."""
        if self.micro_batches == 1:
            return [self._forward_backward(batch)]
        losses, logged = [], []
        for number, part in enumerate(self._parts(batch)):
            model, last = self.model, number == self.micro_batches - 1
            alone = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
            # Each micro-batch logs into a storage of its own, otherwise the log would show the last one only.
            with EventStorage(self.iter) as own, alone:
                losses.append(self._forward_backward(part))
            logged.append(own)
        _put_means(logged)
        return losses

    def _forward_backward(self, batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            losses: dict[str, Tensor] = self.model(batch)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.grad_scaler.scale(total / self.micro_batches).backward()
        return {name: loss.detach().float() for name, loss in losses.items()}

    def _parts(self, batch: Batch) -> list[Batch]:
        if len(batch) % self.micro_batches:  # a loader from outside may not know about micro-batches
            raise UserError(
                f"The training loader gave {len(batch)} images, which do not make {self.micro_batches} equal micro-batches "
                "(SOLVER.IMS_PER_PROCESS); 0 takes all at once."
            )
        size = len(batch) // self.micro_batches
        return [batch[start : start + size] for start in range(0, size * self.micro_batches, size)]

    def _check(self, losses: list[dict[str, Tensor]], batch: Batch) -> dict[str, float]:
        """The mean of every term over micro-batches and ranks, if all are finite. It also settles `stop_agreed`."""
        names = list(losses[0])
        local = torch.stack(
            [torch.stack([terms[name] for name in names]) for terms in losses]
        )  # (micro-batches, terms)
        wanted = torch.full((1,), float(self.stop_wanted()), device=local.device)
        # The wish to stop is summed with the losses: the ranks must agree on the step, and no further exchange is needed.
        sums = torch.cat([local.mean(0), wanted])
        if comm.get_world_size() > 1:
            dist.all_reduce(sums)
        *values, wishes = (sums / comm.get_world_size()).tolist()
        self.stop_agreed = wishes > 0
        means = dict(zip(names, values, strict=True))
        if not all(map(math.isfinite, values)):
            rows = local.tolist()
            bad = next((i for i, row in enumerate(rows) if not all(map(math.isfinite, row))), 0)
            stop_on_nonfinite(means, dict(zip(names, rows[bad], strict=True)), self._parts(batch)[bad], self.iter)
        return means


def _put_means(storages: list[EventStorage]) -> None:
    """Writes every scalar to the current storage, as the mean over the storages that hold it."""
    values: dict[str, list[float]] = {}
    for storage in storages:
        for name, (value, _) in storage.latest().items():
            values.setdefault(name, []).append(float(value))
    hints = {name: hint for storage in storages for name, hint in storage.smoothing_hints().items()}
    for name, found in values.items():
        get_event_storage().put_scalar(name, sum(found) / len(found), smoothing_hint=hints[name])
