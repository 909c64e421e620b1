"""Signals that ask a run to stop: by a scheduler ahead of a time limit or a preemption, or by a person."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from detectron2.utils import comm

from adet_iuq.errors import EXIT_INTERRUPTED, TrainingInterrupted, UserError

# USR1 is what tools/slurm/train.sbatch asks SLURM for, USR2 what submitit does.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def handled(handler: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Within, `handler` is called for each of `SIGNALS`; only the main thread can hear them, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: FrameType | None) -> None:
        handler(signal.Signals(number))

    before = [(number, signal.signal(number, handle)) for number in SIGNALS]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, signal.SIG_DFL if old is None else old)


def stop_now(number: signal.Signals) -> None:
    """The handler outside of training steps, where nothing is lost.

    Raises:
        TrainingInterrupted: always.
    """
    raise _interrupted(number.name, "outside of the training steps")


class StopRequest:
    """The wish to stop once the running step is done and saved.

    Attributes:
        reason: of the first request; empty without any.
        is_error: whether something failed, so that starting again at once would fail, too.
    """

    def __init__(self) -> None:
        self.reason, self.is_error = "", False

    def __bool__(self) -> bool:
        return bool(self.reason)

    def signalled(self, number: signal.Signals) -> None:
        """The handler within training steps."""
        self.reason = self.reason or number.name

    def failed(self, message: str) -> None:
        """Something went wrong that a checkpoint may outlive."""
        if not self.is_error:
            self.reason, self.is_error = message, True

    def end_run(self, when: str) -> NoReturn:
        """Ends the run on every rank for the same reason; all of them call it once any has a request.

        Nobody leaves before all are here: the end of one process may be the end of all.

        Args:
            when: it stopped, for the message.

        Raises:
            UserError: something has failed.
            TrainingInterrupted: a signal has come.
        """
        requests = [request for request in comm.all_gather((self.is_error, self.reason)) if request[1]]
        is_error, reason = max(requests, key=lambda request: request[0])
        if is_error:
            raise UserError(f"{reason} The run stopped {when}; go on with --resume.")
        raise _interrupted(reason, when)

    def end_run_if_signalled(self, when: str) -> None:
        """Ends the run in this process, if a signal came after the last exchange with the others."""
        if self and not self.is_error:
            raise _interrupted(self.reason, when)


def _interrupted(reason: str, when: str) -> TrainingInterrupted:
    return TrainingInterrupted(f"Stopped by {reason} {when}; go on with --resume. (Exit code {EXIT_INTERRUPTED})")
