"""What a resumed run needs besides the weights: taking it down from a trainer, and giving it back to one."""

import logging
from typing import Any

from detectron2.engine import TrainerBase
from detectron2.utils import comm

from adet_iuq.engine.loop.metrics import history
from adet_iuq.engine.loop.random_state import random_state, set_random_state
from adet_iuq.engine.meta_arch import unwrap
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


def gathered_state(trainer: Any) -> dict[str, Any]:
    """The part that is spread over the ranks: random states and the segmenter's memory. Every rank calls it."""
    return {"random_states": comm.gather(random_state()), "iuq": unwrap(trainer.model).iuq_state()}


def trainer_state(trainer: Any, gathered: dict[str, Any]) -> dict[str, Any]:
    """Iteration, optimiser, schedule, random states, recent metrics, and what the segmenter keeps outside its weights.

    Args:
        trainer: a `Trainer`.
        gathered: of `gathered_state`; this function itself runs on the main process only.
    """
    return {
        **TrainerBase.state_dict(trainer),
        "optimizer": trainer.optimizer.state_dict(),
        "grad_scaler": trainer._trainer.grad_scaler.state_dict(),
        "data_seed": trainer.data_seed,
        "history": history(trainer.storage),
        "segmenter": unwrap(trainer.model).training_state(),
        **gathered,
    }


def restore_trainer_state(trainer: Any, state: dict[str, Any]) -> int:
    """Gives a trainer what `trainer_state` took down, but for random states and metrics; returns the seed of the data.

    Raises:
        UserError: the state does not fit this run.
    """
    folder = trainer.cfg.OUTPUT_DIR
    try:
        TrainerBase.load_state_dict(trainer, state)
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer._trainer.grad_scaler.load_state_dict(state["grad_scaler"])
        model = unwrap(trainer.model)
        model.load_training_state(state["segmenter"])
        model.load_iuq_state(state["iuq"])
        seed = int(state["data_seed"])
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
    if trainer.cfg.SEED >= 0 and seed != trainer.cfg.SEED:
        logger.warning("SEED %d is ignored: the resumed run goes on with %d.", trainer.cfg.SEED, seed)
    return seed


def restore_random_states(states: list[dict[str, Any]]) -> None:
    """Gives this process the random state of its rank; says so when there are more or fewer than processes."""
    world_size = comm.get_world_size()
    if len(states) != world_size:
        logger.warning(
            "The run was saved with %d processes and goes on with %d: it continues, but not bit for bit.",
            len(states),
            world_size,
        )
    if comm.get_rank() < len(states):
        set_random_state(states[comm.get_rank()])
