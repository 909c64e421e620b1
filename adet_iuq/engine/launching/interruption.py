"""Signals that ask a run to stop: a scheduler sends them before a time limit or a preemption, a person by Ctrl-C."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import NoReturn

from detectron2.utils import comm

from adet_iuq.errors import EXIT_CTRL_C, EXIT_INTERRUPTED, TrainingInterrupted, UserError
from adet_iuq.files import remove_partial_files

# tools/slurm/train.sbatch asks SLURM for USR1, and submitit sends USR2; Windows has neither.
SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if name in signal.Signals.__members__
)

# One Ctrl-C may reach a process twice: from the terminal, and from the launcher, which passes signals on.
_ONE_PRESS = 1.0  # seconds

Handler = Callable[[signal.Signals], object]


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


class _CtrlC:
    """Counts the presses of Ctrl-C since the outermost `handled` of this process began.

    Attributes:
        depth: the number of nested `handled`.
        first: the time of the first press; negative if there was none.
        again: the function that a second press calls.
    """

    def __init__(self) -> None:
        self.depth, self.first = 0, -1.0
        self.again: Callable[[], object] = _interrupt

    def is_again(self) -> bool | None:
        """Counts a press and says whether it is the second; None if the first one has only arrived once more."""
        now = time.monotonic()
        if self.first < 0:
            self.first = now
            return False
        return True if now - self.first > _ONE_PRESS else None


_ctrl_c = _CtrlC()


@contextmanager
def handled(handler: Handler, again: Callable[[], object] | None = None) -> Iterator[None]:
    """Calls `handler` for each of `SIGNALS` while the context lasts. Outside of the main thread it does nothing.

    Processes that are forked meanwhile react to SIGTERM only, which ends them. If SIGINT was ignored before, as in a
    shell's background jobs, it stays ignored. A SIGINT that `hold_back` kept from this process arrives now.

    Args:
        handler: the function to call; of several Ctrl-C it gets the first only.
        again: the function that a second Ctrl-C calls; None: that of the surrounding `handled`, or KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(number: int, _: FrameType | None) -> None:
        """Handles both signals in this process. In a forked one SIGTERM has its default action and Ctrl-C none."""
        if os.getpid() != process:
            if number == signal.SIGTERM:  # the default action
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        is_again = number == signal.SIGINT and _ctrl_c.is_again()
        if is_again:
            _ctrl_c.again()
        elif is_again is not None:
            handler(signal.Signals(number))

    heard = [number for number in SIGNALS if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    if _ctrl_c.depth == 0:
        _ctrl_c.first = -1.0
    before = [(number, signal.signal(number, handle)) for number in heard]
    again_before = _ctrl_c.again
    _ctrl_c.depth, _ctrl_c.again = _ctrl_c.depth + 1, again or again_before
    try:
        let_go()
        yield
    finally:
        _ctrl_c.depth, _ctrl_c.again = _ctrl_c.depth - 1, again_before
        for number, old in before:
            signal.signal(number, signal.SIG_DFL if old is None else old)


def hold_back() -> None:
    """Keeps SIGINT from processes that this thread starts, until their own `handled`, so that none dies during imports."""
    if sys.platform != "win32":
        resource_tracker.ensure_running()  # otherwise the first start launches it, which unblocks the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def let_go() -> None:
    """Ends `hold_back` in a thread or in a process that it started; a SIGINT that waited arrives now."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_at_once() -> NoReturn:
    """Ends the program after a second Ctrl-C, with everything that it has started, and without a half-written file."""
    try:
        remove_partial_files()
        say("Ended at once; what had been saved before is untouched, and --resume goes on from there.")
        for child in multiprocessing.active_children():
            child.kill()
    finally:
        os._exit(EXIT_CTRL_C)


def say(line: str) -> None:
    """Writes to the standard error of rank 0. A handler may not print, as it may have interrupted a print."""
    if comm.is_main_process():
        start = "\r\x1b[2K" if os.isatty(2) else ""  # erases a progress line
        with contextlib.suppress(OSError):
            os.write(2, f"{start}{line}\n".encode())


def stop_now(number: signal.Signals, when: str = "outside of the training steps, where nothing is lost") -> NoReturn:
    """The handler outside of training steps, where a stop loses nothing.

    Raises:
        TrainingInterrupted: always.
    """  # noqa: DOC501  `_interrupted` makes it
    raise _interrupted(_name(number), when, resumes=False)


class StopRequest:
    """The wish to stop after the running step is done and saved.

    Attributes:
        reason: the reason of the first request; empty if there is none.
        is_error: whether something failed, so that the same command would fail again.
    """

    def __init__(self) -> None:
        self.reason, self.is_error = "", False

    def __bool__(self) -> bool:
        return bool(self.reason)

    def signalled(self, number: signal.Signals, then: str = "this step is finished and saved") -> None:
        """The handler within training steps.

        Args:
            number: the signal.
            then: what happens before the end, as a person is told.
        """
        self.reason = self.reason or _name(number)
        if number == signal.SIGINT:
            say(f"Ctrl-C: {then}, then the run ends. Press it again to end at once, without saving.")

    def failed(self, message: str) -> None:
        """Requests a stop because something failed that does not affect a checkpoint."""
        if not self.is_error:
            self.reason, self.is_error = message, True

    def end_run(self, when: str) -> NoReturn:
        """Ends the run on every rank for the same reason. All of them call it as soon as one has a request.

        No rank leaves before all have arrived, because the end of one process may end all.

        Args:
            when: the moment of the stop, for the message.

        Raises:
            UserError: something has failed.
            TrainingInterrupted: a signal arrived.
        """  # noqa: DOC501  `_interrupted` makes it
        requests = [request for request in comm.all_gather((self.is_error, self.reason)) if request[1]]
        is_error, reason = max(requests, key=lambda request: request[0])
        if is_error:
            raise UserError(f"{reason} The run stopped {when}; go on with --resume.")
        raise _interrupted(reason, when)

    def end_run_if_signalled(self, when: str) -> None:
        """Ends the run in this process if a signal arrived after the last exchange with the others."""
        if self and not self.is_error:
            raise _interrupted(self.reason, when)


def interrupted_by(number: signal.Signals, when: str) -> TrainingInterrupted:
    """The interruption of a run that `--resume` continues; for a handler to raise."""
    return _interrupted(_name(number), when)


def _name(number: signal.Signals) -> str:
    return "Ctrl-C" if number == signal.SIGINT else number.name


def _interrupted(reason: str, when: str, resumes: bool = True) -> TrainingInterrupted:
    code = EXIT_CTRL_C if reason == "Ctrl-C" else EXIT_INTERRUPTED
    return TrainingInterrupted(f"Stopped by {reason} {when}. (Exit code {code})", code, resumes)
