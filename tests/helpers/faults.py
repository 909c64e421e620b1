"""A run of tools/train_net.py in which something goes wrong at a given iteration on a given rank; also a program of its own.

FAULT=<kind>:<rank>:<iteration> (environment) with a kind of `FAULTS`. MEMORY_LOG names a folder in which every rank writes
a line a step: a digest of its memory.
"""

import argparse
import hashlib
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from adet_iuq.commands import train
from adet_iuq.engine import Trainer, argument_parser, launch
from adet_iuq.engine.meta_arch import unwrap
from helpers.golden import REPOSITORY


class AtStep(HookBase):
    """Calls a function in the middle of the training, when the batch of an iteration is about to be taken."""

    def __init__(self, iteration: int, action: Callable[[Any], object]) -> None:
        self.iteration, self.action = iteration, action

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            self.action(self.trainer)


class MemoryLog(HookBase):
    """Appends a digest of everything in this rank's memory after every step."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / f"{comm.get_rank()}.txt"

    def after_step(self) -> None:
        state = unwrap(self.trainer.model).iuq_state()
        digest = hashlib.sha256()
        for name in sorted(state):
            digest.update(state[name].contiguous().view(torch.uint8).numpy().tobytes())
        with self.path.open("a") as file:
            file.write(f"{self.trainer.iter} {int(state['cursor'][1])} {digest.hexdigest()}\n")


def limit_files(size: int) -> None:
    """No file may grow beyond so many bytes: what a full disk feels like."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def spoil(trainer: Any) -> None:
    """The next loss is not a number."""
    next(parameter for parameter in trainer.model.parameters() if parameter.requires_grad).data.fill_(float("nan"))


def press_ctrl_c(trainer: Any = None) -> None:
    """What a terminal does: SIGINT to the whole process group, launcher and data workers included."""
    os.killpg(os.getpgrp(), signal.SIGINT)


def press_twice(trainer: Any) -> None:
    """In a step that would take a minute."""
    press_ctrl_c()
    time.sleep(1.5)
    press_ctrl_c()
    time.sleep(60)


def pause(trainer: Any) -> None:
    """A slow step, in which a file says that it has begun."""
    Path(trainer.cfg.OUTPUT_DIR, "paused").touch()
    time.sleep(5)


FAULTS: dict[str, Callable[[Any], object]] = {
    "kill": lambda trainer: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda trainer: os.kill(os.getpid(), signal.SIGTERM),
    "usr1": lambda trainer: os.kill(os.getpid(), signal.SIGUSR1),
    "nan": spoil,
    "pause": pause,
    "ctrl_c": press_ctrl_c,
    "ctrl_c_twice": press_twice,
}


class FaultyTrainer(Trainer):
    """The trainer with the fault of the environment."""

    def build_hooks(self) -> list[HookBase]:
        more: list[HookBase] = []
        if os.environ.get("FAULT"):
            kind, rank, iteration = os.environ["FAULT"].split(":")
            if comm.get_rank() == int(rank):
                more.append(AtStep(int(iteration), FAULTS[kind]))
        if os.environ.get("MEMORY_LOG"):
            more.append(MemoryLog(os.environ["MEMORY_LOG"]))
        return [*super().build_hooks(), *more]


def main(args: argparse.Namespace) -> None:
    """train_net.py's main, with that trainer."""
    train.Trainer = FaultyTrainer  # type: ignore[misc]
    train.run(args)


# CondInst with instance-unique querying, as small as it goes, on rendered scenes; no BatchNorm.
TINY = [
    "--config-file", str(REPOSITORY / "configs/quickstart.yaml"), "DATASETS.TEST", "()", "DATASETS.SHAPES.SIZE", "64",
    "DATASETS.SHAPES.NUM_TRAIN", "12", "INPUT.MIN_SIZE_TRAIN", "(64,)", "MODEL.DEVICE", "cpu",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.CONDINST.MASK_BRANCH.CHANNELS", "32",
    "MODEL.CONDINST.MASK_BRANCH.NORM", "GN", "MODEL.RESNETS.NORM", "FrozenBN",
    "MODEL.IUQ.INTER.START_ITER", "0", "MODEL.IUQ.INTER.RAMP_ITERS", "3", "MODEL.IUQ.INTER.MAX_QUERIES", "30",
    "MODEL.IUQ.INTER.NEG_WEIGHT", "0.9",
    "MODEL.IUQ.MEMORY.CAPACITY", "400", "SOLVER.IMS_PER_BATCH", "8", "SOLVER.BASE_LR", "0.005", "SOLVER.MAX_ITER", "6",
    "SOLVER.STEPS", "(5,)", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.WARMUP_ITERS", "2", "SEED", "1",
    "DATALOADER.NUM_WORKERS", "0", "REPORT.ENABLED", "False",
]  # fmt: skip

if __name__ == "__main__":
    launch(main, argument_parser().parse_args())
