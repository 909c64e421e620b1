"""One optimisation step: forward, backward, guard, update, in full or mixed precision, on any device."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adet_iuq.engine.guards import stop_on_nonfinite
from adet_iuq.errors import UserError

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

Batch = list[dict[str, Any]]


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The dtype of mixed precision, None where SOLVER.AMP is off.

    Raises:
        UserError: unknown, or float16 on the CPU, where gradients cannot be scaled.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.SOLVER.AMP.DTYPE not in _DTYPES:
        raise UserError(f'SOLVER.AMP.DTYPE is "{cfg.SOLVER.AMP.DTYPE}"; it can be {" or ".join(_DTYPES)}.')
    if cfg.SOLVER.AMP.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        raise UserError(
            "SOLVER.AMP.DTYPE float16 needs a CUDA device. On the CPU set SOLVER.AMP.DTYPE bfloat16, or "
            "SOLVER.AMP.ENABLED False."
        )
    return _DTYPES[cfg.SOLVER.AMP.DTYPE]


def unwrap(model: nn.Module) -> Any:
    """The model itself, out of DistributedDataParallel."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class TrainStep:
    """What detectron2's SimpleTrainer and AMPTrainer do, for every device and dtype, with one host transfer a step.

    Attributes:
        iter: the iteration that the next step belongs to; set by the trainer.
        data_loader: endless batches; set before the first step.

    Args:
        model: returns a dict of scalar losses in training; put into training mode here.
        optimizer: gradient clipping, if any, is part of its `step`, as detectron2 builds it.
        device_type: "cuda" or "cpu".
        amp_dtype: of autocast; None: full precision. float16 scales the loss.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, device_type: str, amp_dtype: torch.dtype | None
    ) -> None:
        model.train()
        self.model, self.optimizer = model, optimizer
        self.device_type, self.amp_dtype = device_type, amp_dtype
        self.grad_scaler = torch.amp.GradScaler(device_type, enabled=amp_dtype == torch.float16)
        self.iter = 0
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
            NonFiniteLossError: on all ranks, before the weights are touched.
        """
        assert self.model.training, "the model is not in training mode"
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start

        segmenter = unwrap(self.model)
        if hasattr(segmenter, "set_iteration"):
            segmenter.set_iteration(self.iter)
        with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            losses: dict[str, Tensor] = self.model(batch)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()

        # Reading the losses waits for the device: after the backward pass is queued, before the weights change.
        means, local = _reduced(losses)
        stop_on_nonfinite(means, local, batch, self.iter)
        storage = get_event_storage()
        storage.put_scalar("data_time", data_time)
        storage.put_scalar("total_loss", sum(means.values()))
        for name, value in means.items():
            storage.put_scalar(name, value)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _next_batch(self) -> Batch:
        if self._batches is None:
            assert self._data_loader is not None, "data_loader is not set"
            self._batches = iter(self._data_loader)
        return next(self._batches)


def _reduced(losses: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, float]]:
    """Every term averaged over the ranks, and this rank's own."""
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    world_size = comm.get_world_size()
    if world_size == 1:
        local = dict(zip(losses, values.tolist(), strict=True))
        return local, local
    total = values.clone()
    dist.all_reduce(total)
    both = torch.stack([total / world_size, values]).tolist()
    return dict(zip(losses, both[0], strict=True)), dict(zip(losses, both[1], strict=True))
