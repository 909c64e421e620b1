"""The report's own process beside the training. It reads files and writes one, and no failure of it can end the training.

It costs a training only the start of a process: matching and drawing wait for processors that nothing else needs
(SCHED_IDLE, one thread, no GPU). It is a process group of its own, so that Ctrl-C on the training does not reach it. It
is not a session of its own, because Linux may share processors evenly between sessions, whatever the priorities in
them. If the training ends first, the process continues and ends by itself.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
COMMAND = (sys.executable, "-m", "adet_iuq.reporting", "--started")
END_SECONDS = 180.0  # how long the end of a run waits for its report
_LONGEST = 6 * 3600  # seconds after which a report gives up, as whoever started it has long gone
_GRACE_SECONDS = 1.0
_LEAST_NICE = 19


class ReportProcess:
    """Writes at most one report at a time.

    Args:
        folder: the OUTPUT_DIR of the run.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None

    def start(self, *, beside: bool) -> None:
        """Starts a report on the present files in the folder, at the lowest priority if it runs `beside` a training.

        It replaces a report that is still being written, and waits up to a second for that one's end.
        """
        self.stop()
        try:
            self._words = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the process has ended)
            self._process = subprocess.Popen(
                [*COMMAND, *(["--beside"] if beside else []), self.folder],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                env=_environment(),
            )
        except OSError as error:
            logger.warning("No report: its process cannot be started (%s).", error.strerror or error)

    def is_writing(self) -> bool:
        """Whether a report is being written now. If it has failed, this says so once."""
        if self._process is not None and self._process.poll() is not None:
            self._end()
        return self._process is not None

    def finish(self, seconds: float = END_SECONDS) -> bool:
        """Waits for the report; returns whether it is there. A report that takes longer continues by itself."""
        if self._process is None:
            return False
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            logger.warning(
                "The report takes longer than %.0f s; process %d goes on with it.", seconds, self._process.pid
            )
            self._process = None
            return False
        return self._end()

    def stop(self) -> None:
        """Ends a report that is still being written; the previous report stays."""
        if self.is_writing():
            assert self._process is not None
            self._process.terminate()
            try:
                self._process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:  # it is deep in a library, which does not react to a signal
                self._process.kill()
                self._process.wait()
            self._process = None

    def _end(self) -> bool:
        assert self._process is not None and self._words is not None
        code, self._process = self._process.returncode, None
        if code:
            self._words.seek(0)
            lines = self._words.read().decode(errors="replace").strip().splitlines()
            why = lines[-1].removeprefix("Error: ") if lines else f"exit code {code}"
            logger.warning("No report: %s Once that is mended: python tools/report.py %s", why, self.folder)
        self._words.close()
        return code == 0


def be_modest() -> None:
    """Takes the lowest priority that exists."""
    os.nice(_LEAST_NICE)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # some containers forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def stand_alone() -> None:
    """Leaves the process group, to which a terminal sends Ctrl-C. SIGTERM or a time limit ends it in good order."""
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, lambda *_: sys.exit("it was ended before it was done."))
    signal.alarm(_LONGEST)


def _environment() -> dict[str, str]:
    """This process's environment, in which the child finds the same code, but no GPU and only one thread.

    It lacks the launcher's variables, because a child that imports torch must not take itself for a rank.
    """
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    code = str(Path(__file__).resolve().parents[2])
    paths = [code, *filter(None, [own.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**own, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg", **threads}
