"""Starts the processes of this machine. If one of them dies, the others are killed; signals reach all of them.

torch's elastic launcher is not used. Measured with torch 2.14: after one process is killed, another that evaluates runs on
for 30 s (here it is killed within 1 s). A second Ctrl-C also takes 30 s. After a signal the exit codes of the processes are
lost.
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

# After one process has ended as interrupted, the others have this many seconds to end too; all of them have agreed by then
# that everything is saved.
_GRACE = 30.0
# After a second Ctrl-C processes have this many seconds before they are killed. A process that waits in an exchange with
# others cannot react.
_GRACE_AT_ONCE = 2.0


def run_processes(target: Callable[..., object], arguments: list[tuple[Any, ...]], first_rank: int) -> int:
    """Starts `target(*arguments[i])` in as many new processes and waits for all of them.

    Args:
        target: a function of a module.
        arguments: the arguments for each process, which are pickled.
        first_rank: the rank of the first process, for messages.

    Returns:
        0 if all processes succeeded. 75 or 130 if one was interrupted, even if others then lost contact and failed.
        Otherwise the exit code of the first that failed (128 plus the signal, if a signal killed it). In that case the cause
        is printed, and the others are killed at once, because they would wait for the failed one until the time-out.
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
    """While the context lasts, signals that stop a run are passed to all processes started by `multiprocessing`.

    This process continues. A second Ctrl-C makes the others end at once; then this process ends too.
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

    # If the parent ends for any reason, this process must end too.
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
            # Processes that lost contact to a killed one may end at the same moment. The killed one is reported.
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
    """Ends this process without Python's clean-up.

    The frames of an exception may still hold a DistributedDataParallel, and with it the process group. During a clean-up the
    threads of the group would abort the process, and the exit code would be SIGABRT's instead of `code`.
    """
    for worker in multiprocessing.active_children():
        worker.kill()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # they may be files on a full disk
            stream.flush()
    os._exit(code)
