"""The processes that we start on this machine: one that dies takes the others along, signals reach all of them.

torch's elastic launcher does not serve: beside a killed process it lets one that evaluates go on for a fixed 30 seconds
(here it is killed within one), a second Ctrl-C waits as long, and after a signal it drops exit codes (measured, torch 2.14).
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from adet_iuq.engine.launching.interruption import handled, hold_back, let_go
from adet_iuq.errors import EXIT_CTRL_C, EXIT_INTERRUPTED, EXIT_USER_ERROR

# Seconds that interrupted processes get to follow the first one, after all of them have agreed that all is saved.
_GRACE = 30.0
# And those that get a second Ctrl-C, before they are killed: one that waits for others cannot hear it.
_GRACE_AT_ONCE = 2.0


def run_processes(target: Callable[..., object], arguments: list[tuple[Any, ...]], first_rank: int) -> int:
    """Starts `target(*arguments[i])` in as many new processes and waits for all of them.

    Args:
        target: a function of a module.
        arguments: of each process; they are pickled.
        first_rank: of the first process, for messages.

    Returns:
        0 if all went well, 75 or 130 after an interruption (of one alone, too, whereupon others lose contact and fail),
        else the exit code of the first that failed (128 plus the signal that killed it). The others are killed then, at
        once: they would wait for it until the time-out. What it died of is printed.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_child, args=(target, *words)) for words in arguments]
    with forwarded_signals():
        hold_back()
        for process in processes:
            process.start()
        let_go()
        try:
            return _wait(processes, first_rank)
        finally:
            for process in processes:
                process.kill()
                process.join()


@contextmanager
def forwarded_signals() -> Iterator[None]:
    """Within, the signals that stop a run go on to all processes started by `multiprocessing`, and leave this one alive.

    Whoever ends after a second Ctrl-C ends as those do.
    """

    def forward(number: signal.Signals) -> None:
        if sys.platform == "win32":
            return  # the console has told all of them, and os.kill would end them
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, number)

    def end() -> None:
        deadline = time.monotonic() + _GRACE_AT_ONCE
        while multiprocessing.active_children() and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(EXIT_CTRL_C)

    def end_at_once() -> None:
        forward(signal.SIGINT)
        threading.Thread(target=end, daemon=True).start()

    with handled(forward, end_at_once):
        yield


def _child(target: Callable[..., object], *arguments: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    # However the starter ends, no process trains on unseen.
    threading.Thread(target=follow, daemon=True).start()
    target(*arguments)


def _wait(processes: Sequence[BaseProcess], first_rank: int) -> int:
    running: dict[Any, int] = {process.sentinel: rank for rank, process in enumerate(processes)}
    deadline: float | None = None
    interrupted = 0
    interruptions = (EXIT_INTERRUPTED, EXIT_CTRL_C)
    while running:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ended = [running.pop(sentinel) for sentinel in wait(list(running), timeout)]
        for rank in ended:
            processes[rank].join()  # the exit code may come a moment after the end
            if _code(processes[rank]) in interruptions:
                interrupted = _code(processes[rank])
                deadline = time.monotonic() + _GRACE
        failed = [rank for rank in ended if _code(processes[rank]) not in (0, *interruptions)]
        if failed and not interrupted:
            # Those that lost contact to a killed one may be there at the same moment: the killed one comes first.
            failed.sort(key=lambda rank: (processes[rank].exitcode or 0) >= 0)
            _report(processes[failed[0]], first_rank + failed[0], others=len(running))
            return _code(processes[failed[0]])
        if not ended:
            break
    return interrupted


def _code(process: BaseProcess) -> int:
    code = process.exitcode or 0
    return code if code >= 0 else 128 - code


def _report(process: BaseProcess, rank: int, others: int) -> None:
    code = process.exitcode or 0
    if code == EXIT_USER_ERROR:
        return  # it has said why
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    hint = " (SIGKILL is what a machine out of memory sends)" if "SIGKILL" in end else ""
    print(
        f"Error: the process of rank {rank} {end}{hint}; {others} other process(es) of this machine were stopped. "
        "Go on from the last checkpoint with --resume.",
        file=sys.stderr,
        flush=True,
    )


def end_process(code: int) -> NoReturn:
    """Ends this process, a part of a group, without taking the interpreter down piece by piece.

    An exception's frames may still hold a DistributedDataParallel and with it the group, whose threads would then abort the
    process: SIGABRT's code instead of `code`.
    """
    for worker in multiprocessing.active_children():
        worker.kill()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # they may be files on a full disk
            stream.flush()
    os._exit(code)
