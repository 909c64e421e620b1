"""One run as a process of its own: it ends with its runner, never starts twice, and its time is measured."""

import contextlib
import ctypes
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adet_iuq.errors import EXIT_INTERRUPTED, UserError
from adet_iuq.files import replace_file
from adet_iuq.studies.record import Usage

LOG_FILE, USAGE_FILE, LOCK_FILE = "console.txt", "usage.json", "lock"
_PR_SET_PDEATHSIG = 1
_LOCK_SECONDS = 30.0


class Lock:
    """A file that one process and the processes that inherit it hold. It is free when all of them have ended.

    It contains the number of the process that holds it.

    Args:
        path: the path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, patience: float = 0.0) -> bool:
        """Takes the lock if it is free, or becomes free within `patience` seconds; returns whether it did.

        Callers that need the lock wait a little, because another process may be checking it just then.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
            time.sleep(0.05)

    def sign(self) -> None:
        """Writes this process's number into the lock."""
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, str(os.getpid()).encode(), 0)

    def holder(self) -> int | None:
        """The number of the process that has signed the lock."""
        text = os.pread(self.handle, 32, 0).decode()
        return int(text) if text.isdigit() else None

    def close(self) -> None:
        """Releases the lock for this process."""
        os.close(self.handle)


def is_held(path: Path) -> int | None:
    """The number of the process that holds a lock; None if nobody does."""
    if not path.is_file():
        return None
    lock = Lock(path)
    try:
        return None if lock.take() else lock.holder()
    finally:
        lock.close()


class Process:
    """A run that has been started.

    The run inherits the lock of its folder, so nothing else can start it while it lives. If its runner is killed, the
    kernel kills the run as well (Linux); on other systems the next runner finds the lock held and kills its holder.

    Args:
        command: the program and its words.
        folder: the folder of the run.
        environment: the environment of the program.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        lock = _take_over(folder / LOCK_FILE)
        self._before = _begin_usage(folder)
        try:
            with (folder / LOG_FILE).open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=[lock.handle],
                    start_new_session=True,  # the runner handles Ctrl-C, and asks its runs to save and stop
                    preexec_fn=_last_words(lock),
                )
        finally:
            lock.close()
        self._started = time.monotonic()
        self._paused_at: float | None = None
        self._paused_s = 0.0
        self._asked_to_stop = False

    @property
    def wall_s(self) -> float:
        """The seconds since the start, without pauses."""
        now = time.monotonic() if self._paused_at is None else self._paused_at
        return now - self._started - self._paused_s

    def pause(self) -> None:
        """Stops it at once until `go_on`."""
        if self._paused_at is None:
            self._paused_at = time.monotonic()
            self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends a pause."""
        if self._paused_at is not None:
            self._paused_s += time.monotonic() - self._paused_at
            self._paused_at = None
            self._signal(signal.SIGCONT)

    def stop(self, at_once: bool = False) -> None:
        """Asks it, once, to save its state and end; `at_once` ends it."""
        self.go_on()
        if at_once:
            self._signal(signal.SIGKILL)
        elif not self._asked_to_stop:
            self._asked_to_stop = True
            self._signal(signal.SIGTERM)

    def poll(self) -> int | None:
        """Its exit code (128 plus the signal that killed it) once it has ended; `usage` then holds what it took."""
        ended, status, resources = os.wait4(self._process.pid, os.WNOHANG)
        if not ended:
            return None
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code  # Popen has not noticed the end
        self.usage = dataclasses.replace(
            self._before,
            wall_s=self._before.wall_s + self.wall_s,
            cpu_s=self._before.cpu_s + resources.ru_utime + resources.ru_stime,
        )
        if code in (0, EXIT_INTERRUPTED):  # after any other end some iterations are done twice
            _write_usage(self.folder, self.usage)
        return code if code >= 0 else 128 - code

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _take_over(path: Path) -> Lock:
    """The lock of a run, taken after the end of the process that still holds it.

    Raises:
        UserError: the process does not release it.
    """
    lock = Lock(path)
    if lock.take(patience=1.0):
        return lock
    holder = lock.holder()
    if holder is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(holder, signal.SIGKILL)
    if not lock.take(_LOCK_SECONDS):
        lock.close()
        raise UserError(
            f"{path} is held by process {holder}, left over from an earlier runner. End it, then start again."
        )
    return lock


def _last_words(lock: Lock) -> Callable[[], None]:
    """Prepares the new process before it becomes the program: it signs its lock, and asks to die with the runner."""
    runner = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        lock.sign()
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != runner:  # the runner died in the meantime
            os._exit(1)

    return prepare


def _begin_usage(folder: Path) -> Usage:
    """The usage of earlier parts of the run. On the disk it counts as unmeasured until this part has ended."""
    path = folder / USAGE_FILE
    resumed = path.is_file() and (folder / "last_checkpoint").is_file()
    before = Usage(**json.loads(path.read_text())) if resumed else Usage()
    _write_usage(folder, dataclasses.replace(before, whole=False))
    return before


def _write_usage(folder: Path, usage: Usage) -> None:
    content = json.dumps(dataclasses.asdict(usage)) + "\n"
    replace_file(folder / USAGE_FILE, lambda file: file.write(content.encode()))
