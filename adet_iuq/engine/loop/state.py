"""The content of a training's checkpoint: how it is taken from a trainer, and given back to one.

    {"model":     weights and buffers of the segmenter,
     "trainer":   iteration, optimizer, schedule (under "hooks"), grad_scaler, data_seed, history (recent metrics),
                  random_states (of every rank), segmenter and iuq (their state outside the weights),
     "iteration": the last finished iteration}

checkpoint/checkpointer.py writes and reads it. Evaluations use the functions for random states below as well.
"""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm

from adet_iuq.checkpoint import Checkpoint
from adet_iuq.engine.loop.metrics import history
from adet_iuq.engine.meta_arch import unwrap
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


def run_state(trainer: Any) -> dict[str, Any]:
    """The whole content of a checkpoint. Every rank calls it; the main process's result holds the state of all ranks.

    Args:
        trainer: a `Trainer`.
    """
    return {
        "model": unwrap(trainer.model).state_dict(),
        "trainer": trainer.state_dict(),
        "iteration": trainer.iter,
    }


def restore_run(trainer: Any, checkpoint: Checkpoint) -> None:
    """Gives a trainer, whose model already has its weights, everything else that `run_state` stored.

    Raises:
        UserError: the file holds only weights, or its state does not fit this run.
    """
    if "trainer" not in checkpoint.content:
        raise UserError(
            f"Checkpoint {checkpoint.path} holds weights but no state of a trainer: a run cannot be resumed from it. Load "
            "it as MODEL.WEIGHTS, without --resume."
        )
    trainer.load_state_dict(checkpoint.content["trainer"])


def trainer_state(trainer: Any) -> dict[str, Any]:
    """The part under "trainer". Every rank calls it, because random states and the memory are spread over the ranks."""
    model = unwrap(trainer.model)
    return {
        **TrainerBase.state_dict(trainer),
        "optimizer": trainer.optimizer.state_dict(),
        "grad_scaler": trainer._trainer.grad_scaler.state_dict(),
        "data_seed": trainer.data_seed,
        "history": history(trainer.storage),
        "segmenter": model.training_state(),
        "random_states": comm.gather(random_state()),
        "iuq": model.iuq_state(),
    }


def restore_trainer_state(trainer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Gives a trainer the state that `trainer_state` stored.

    Returns:
        The parts that it can take over only when the training starts: "random_states" and "history".

    Raises:
        UserError: the state does not fit this run.
    """
    folder = trainer.cfg.OUTPUT_DIR
    try:
        TrainerBase.load_state_dict(trainer, state)
        trainer.optimizer.load_state_dict(state["optimizer"])
        if state["grad_scaler"]:  # empty if the run had none: SOLVER.AMP.DTYPE auto may differ between machines
            trainer._trainer.grad_scaler.load_state_dict(state["grad_scaler"])
        model = unwrap(trainer.model)
        model.load_training_state(state["segmenter"])
        model.load_iuq_state(state["iuq"])
        trainer.data_seed = int(state["data_seed"])
        at_the_start = {name: state[name] for name in ("random_states", "history")}
    except KeyError as error:
        raise UserError(
            f"The last checkpoint in {folder} has no {error} in its trainer state: it was not written by this project's "
            "trainer and cannot be resumed. Load it as MODEL.WEIGHTS without --resume."
        ) from error
    except ValueError as error:
        raise UserError(
            f"The last checkpoint in {folder} does not fit this config: {error} Resume with the config that it was trained "
            "with, or load it as MODEL.WEIGHTS without --resume."
        ) from error
    if trainer.cfg.SEED >= 0 and trainer.data_seed != trainer.cfg.SEED:
        logger.warning("SEED %d is ignored: the resumed run goes on with %d.", trainer.cfg.SEED, trainer.data_seed)
    return at_the_start


def restore_random_states(states: list[dict[str, Any]]) -> None:
    """Gives this process the random state of its rank, and warns if there are more or fewer states than processes."""
    world_size = comm.get_world_size()
    if len(states) != world_size:
        logger.warning(
            "The run was saved with %d processes and goes on with %d: it continues, but not bit for bit.",
            len(states),
            world_size,
        )
    if comm.get_rank() < len(states):
        set_random_state(states[comm.get_rank()])


def random_state() -> dict[str, Any]:
    """States of Python's, numpy's and torch's global generators, as plain numbers and tensors.

    `torch.load(weights_only=True)` accepts nothing else.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": (version, list(words), gauss),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Sets the generators to `state`, as if nothing had been drawn since."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restores the random states at the end, so that more or fewer evaluations do not change a training."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
