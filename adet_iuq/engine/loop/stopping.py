"""How a training reacts to signals: which steps are saved, and when an evaluation is given up."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

from adet_iuq.engine.launching.interruption import StopRequest, handled, interrupted_by


class Stoppable(Protocol):
    """The part of the trainer that this module needs. `iter` is `max_iter` in the evaluation after the last step."""

    iter: int
    max_iter: int
    saved_iter: int

    def save_checkpoint(self, name: str) -> None:
        """Saves a checkpoint of this name, as the trainer does."""


def save_and_stop(trainer: Stoppable, stop: StopRequest) -> NoReturn:
    """Saves the finished iteration, and ends the training on every rank for the same reason."""
    _save(trainer)
    stop.end_run(f"after iteration {trainer.iter + 1} of {trainer.max_iter}, which is saved")


@contextmanager
def evaluation_with_signals(trainer: Stoppable, stop: StopRequest, stop_agreed: bool) -> Iterator[None]:
    """Handles signals during an evaluation.

    Ctrl-C ends the evaluation at once if all iterations are saved; otherwise the run stops after the evaluation, as it does
    after any other signal. During the last evaluation every signal ends the run at once.

    Args:
        trainer: the trainer that evaluates.
        stop: the trainer's request to stop.
        stop_agreed: whether all ranks end after this step. There is no evaluation then, as a scheduler may not wait for it.

    Raises:
        TrainingInterrupted: a signal arrived, and everything is saved.
        UserError: the ranks end because something failed.
    """
    if stop_agreed:
        save_and_stop(trainer, stop)
    last = trainer.iter >= trainer.max_iter

    def signalled(number: signal.Signals) -> None:
        if last:
            raise interrupted_by(number, "during the last evaluation; all iterations are saved")
        if number == signal.SIGINT and trainer.saved_iter == trainer.iter:
            where = f"after iteration {trainer.iter + 1} of {trainer.max_iter}, which is saved"
            raise interrupted_by(number, f"during the evaluation {where}")
        stop.signalled(number, "after this evaluation the iterations that are not saved yet are")

    with handled(signalled):
        yield


@contextmanager
def ending_with_signals() -> Iterator[None]:
    """Handles signals after the last step, such as during the wait for the report: a signal ends the complete run.

    Raises:
        TrainingInterrupted: a signal arrived; `--resume` continues from here, without repeating the training.
    """

    def signalled(number: signal.Signals) -> None:
        raise interrupted_by(number, "after the last iteration; all iterations are saved")

    with handled(signalled):
        yield


def _save(trainer: Stoppable) -> None:
    if trainer.saved_iter < min(trainer.iter, trainer.max_iter - 1):
        is_last = trainer.iter + 1 >= trainer.max_iter
        trainer.save_checkpoint("model_final" if is_last else f"model_{trainer.iter:07d}")
