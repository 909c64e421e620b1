"""Data workers that name the sample at which they die, and that survive a signal that is meant for the training."""

import multiprocessing
import os
import signal
import sys
import threading

import torch
from torch.utils.data import get_worker_info

from adet_iuq.errors import UserError

_NAME_BYTES = 1000
_PID, _STATE, _LENGTH, _NAME = slice(0, 8), 8, slice(9, 13), 13
_IDLE, _READING = 0, 1


class WorkerBoard:
    """Shared memory in which every worker notes the file that it is reading, in case it dies before it can report it.

    Args:
        num_workers: the number of the loader's workers. With 0 nothing is noted, as errors then reach the process itself.
    """

    def __init__(self, num_workers: int) -> None:
        self._rows = torch.zeros(num_workers, _NAME + _NAME_BYTES, dtype=torch.uint8).share_memory_()

    def begin(self, name: str) -> None:
        """Notes that this worker starts on a file. Outside of a worker nothing happens."""
        row = self._row()
        if row is None:
            return
        data = name.encode(errors="replace")[-_NAME_BYTES:]
        row[_NAME : _NAME + len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
        row[_LENGTH] = torch.frombuffer(bytearray(len(data).to_bytes(4, "little")), dtype=torch.uint8)
        row[_PID] = torch.frombuffer(bytearray(os.getpid().to_bytes(8, "little")), dtype=torch.uint8)
        row[_STATE] = _READING

    def end(self) -> None:
        """Notes that this worker has finished its file."""
        row = self._row()
        if row is not None:
            row[_STATE] = _IDLE

    def explain(self, error: BaseException) -> UserError | None:
        """The message for the user if `error` results from a worker's death; None if it does not."""
        # torch reports it itself, or its pipes report that one end is gone.
        if not isinstance(error, ConnectionError | EOFError) and "DataLoader worker" not in str(error):
            return None
        alive = {child.pid for child in multiprocessing.active_children()}
        notes = [note for pid, note in self._notes() if pid not in alive]
        if not notes and not isinstance(error, RuntimeError):
            return None
        where, reason = " or ".join(notes) or "before it read anything", str(error).splitlines()[0]
        return UserError(
            f"A data worker died {where}. ({reason}) If it was killed, memory most likely ran out: lower "
            "DATALOADER.NUM_WORKERS. If it crashed, look at that file, or set DATALOADER.NUM_WORKERS 0 to see the error "
            "itself. Then go on from the last checkpoint with --resume."
        )

    def _row(self) -> torch.Tensor | None:
        info = get_worker_info()
        return None if info is None or not len(self._rows) else self._rows[info.id]

    def _notes(self) -> list[tuple[int, str]]:
        result = []
        for row in self._rows:
            data = bytes(row.tolist())
            pid, length = int.from_bytes(data[_PID], "little"), int.from_bytes(data[_LENGTH], "little")
            if pid:
                when = "while reading" if data[_STATE] == _READING else "after reading"
                result.append((pid, f"{when} {data[_NAME : _NAME + length].decode(errors='replace')}"))
        return result


def initialize_worker(_: int) -> None:
    """Makes a worker obey only its own process: a terminal sends Ctrl-C to all processes of a job, a scheduler SIGTERM.

    The training then finishes its step, for which it needs its workers, and ends them itself. If the operating system
    does not say who sent a SIGTERM (only Linux does), any SIGTERM ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    assert sys.platform == "linux"
    # Only sigwaitinfo says who sent a signal.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
