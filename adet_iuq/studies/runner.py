"""Runs a study: as many runs at once as there is room for, until all are done, whatever happens meanwhile."""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from adet_iuq.cores import available_cores
from adet_iuq.errors import EXIT_INTERRUPTED, UserError
from adet_iuq.files import replace_file
from adet_iuq.studies.begun import begin, check_begun
from adet_iuq.studies.folder import StudyFolder
from adet_iuq.studies.processes import LOG_FILE, Lock, Process, is_held
from adet_iuq.studies.progress import duration, seconds_left
from adet_iuq.studies.record import Record, Usage, is_finished, make_record, write_record
from adet_iuq.studies.study import Run, Study

_POLL_SECONDS = 0.2
_LOG_LINES = 30
# Exit codes of runs that were asked to stop: everything is saved, nothing had to be saved, or they were killed while saving.
_STOPPED = (EXIT_INTERRUPTED, 128 + signal.SIGTERM, 128 + signal.SIGKILL)
_ACKNOWLEDGE_SECONDS = 15.0


class Runner:
    """Runs a study in a folder.

    It may be killed at any time, with or without its runs. If it is started again, it continues with the remaining runs.

    Args:
        study: the study to run.
        folder: the folder of the study.
        revision: the revision of the code that `command` starts, for the records.
        command: the function that turns a run and its OUTPUT_DIR into a program and its words.
        environments: the environments of the programs, one for each that may run at the same time.
        console: the console on which progress is printed; None: standard output.
    """

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        revision: str,
        command: Callable[[Run, Path], Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        console: Console | None = None,
    ) -> None:
        self.study, self.folder, self.revision, self.command = study, folder, revision, command
        self.console = console or Console(soft_wrap=True, highlight=False)
        self.environments = list(environments)
        self.running: dict[Run, tuple[Process, Mapping[str, str]]] = {}
        self.todo: deque[Run] = deque()
        self.records: dict[str, Record] = {}
        self.failed: list[Run] = []
        self._stopping = 0  # how often it was asked to stop

    def run(self) -> int:
        """Does all remaining runs; returns the exit code: 0, 1 if runs failed, 75 if it was asked to stop.

        Raises:
            UserError: another runner works in the folder; its records or begun runs do not fit the study; or a file cannot
                be written.
        """
        with _alone(self.folder), self._handled():
            runs = self.study.runs()
            _record_finished(self.study, self.folder, self.revision, strict=False)
            self.records = self.folder.records(runs)
            self.todo.extend(run for run in runs if run.name not in self.records)
            for run in runs:
                if run.name in self.records:
                    self._drop_weights(run)  # it may have been killed between record and deletion
            self._say(
                f"{self.study.name}: {len(self.records)} of {len(runs)} runs are done; {len(self.environments)} at once."
            )
            try:
                while self.running or (self.todo and not self._stopping):
                    self._step()
                    time.sleep(_POLL_SECONDS)
            except BaseException:
                self._stop_all()
                raise
            return self._end()

    def _step(self) -> None:
        """Checks everything once."""
        if self.folder.pause.exists() and not self._stopping:
            if not self.folder.paused.exists():
                for process, _ in self.running.values():
                    process.pause()
                self.folder.paused.touch()
                self._say(f"Paused, {len(self.running)} runs stand still.")
            return
        if self.folder.paused.exists():
            for process, _ in self.running.values():
                process.go_on()
            self.folder.paused.unlink()
            self._say("Going on.")
        if self._stopping:
            self._stop_all()
        for run in list(self.running):
            code = self.running[run][0].poll()
            if code is not None:
                self._ended(run, code)
        while self.todo and self.environments and not self._stopping:
            self._start(self.todo.popleft())

    def _start(self, run: Run) -> None:
        work = self.folder.work(run)
        begin(work, self.study, run, self.revision)
        environment = self.environments.pop(0)
        self.running[run] = Process(self.command(run, work), work, environment), environment
        self._say(f"start  {run.name}")

    def _ended(self, run: Run, code: int) -> None:
        process, environment = self.running.pop(run)
        self.environments.append(environment)
        if self._stopping and code in _STOPPED:
            self._say(f"cut    {run.name}")
            return
        problem = f"It ended with exit code {code}."
        if code == 0:
            try:
                self._done(run, process.usage)
                return
            except UserError as error:
                problem = str(error)
        self.failed.append(run)
        _write_failure(self.folder.failure(run), problem, self.folder.work(run) / LOG_FILE)
        self._say(f"FAILED {run.name}: {problem} See {self.folder.failure(run)}.")

    def _done(self, run: Run, usage: Usage) -> None:
        record = make_record(self.study.name, run, self.revision, self.folder.work(run), usage)
        write_record(self.folder.record(run), record)
        self.records[run.name] = record
        self.folder.failure(run).unlink(missing_ok=True)
        self._drop_weights(run)
        metric = next((f"{name} {value:.2f}, " for name, value in record.metrics().items() if name == "segm/AP"), "")
        elapsed = {run: process.wall_s for run, (process, _) in self.running.items()}
        left = seconds_left(self.records, self.todo, elapsed, len(self.environments) + len(self.running))
        total = len(self.records) + len(self.todo) + len(self.running) + len(self.failed)
        self._say(
            f"done   {run.name}: {metric}{duration(usage.wall_s)}. {len(self.records)} of {total}, left {duration(left)}"
        )

    def _drop_weights(self, run: Run) -> None:
        if not self.study.keep_weights:
            for path in self.folder.work(run).glob("*.pth"):
                path.unlink()

    def _stop_all(self) -> None:
        for process, _ in self.running.values():
            process.stop(at_once=self._stopping > 1)

    def _end(self) -> int:
        if self._stopping:
            self._say("Stopped; the same command continues.")
            return EXIT_INTERRUPTED
        if self.failed:
            names = ", ".join(run.name for run in self.failed)
            self._say(f"{len(self.failed)} runs failed: {names}. The same command tries again.")
        return 1 if self.failed else 0

    @contextlib.contextmanager
    def _handled(self) -> Iterator[None]:
        """While the context lasts, Ctrl-C and SIGTERM make the runs save and stop; a second one ends them.

        SIGHUP keeps its effect: nohup's, or the end.
        """

        def handle(number: int, _: FrameType | None) -> None:
            self._stopping += 1

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _say(self, line: str) -> None:
        self.console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)


@contextlib.contextmanager
def _alone(folder: StudyFolder) -> Iterator[None]:
    lock = Lock(folder.lock)
    try:
        if not lock.take(patience=1.0):
            raise UserError(f"Another runner, process {lock.holder()}, is at work in {folder.path}; see --status.")
        lock.sign()
        folder.pause.unlink(missing_ok=True)  # a runner may have been killed during a pause
        folder.paused.unlink(missing_ok=True)
        yield
    finally:
        lock.close()


def pause(folder: StudyFolder, wanted: bool) -> None:
    """Makes the runner of a study pause or continue, and returns when it has.

    Raises:
        UserError: there is no runner, or it does not react.
    """
    if is_held(folder.lock) is None:
        raise UserError(f"No runner is at work in {folder.path}.")
    if wanted:
        folder.pause.touch()
    else:
        folder.pause.unlink(missing_ok=True)
    deadline = time.monotonic() + _ACKNOWLEDGE_SECONDS
    while folder.paused.exists() != wanted:
        if time.monotonic() > deadline:
            raise UserError(f"The runner of {folder.path}, process {is_held(folder.lock)}, does not react.")
        time.sleep(_POLL_SECONDS / 2)


def collect(study: Study, folder: StudyFolder, revision: str) -> list[Run]:
    """Writes the records of runs that were trained by the commands of `--print-commands`; returns those runs.

    The time that they took is not known here, so they do not count in cost ratios.

    Raises:
        UserError: a runner is at work, or a record or a folder does not fit the study.
    """
    with _alone(folder):
        return _record_finished(study, folder, revision, strict=True)


def _record_finished(study: Study, folder: StudyFolder, revision: str, strict: bool) -> list[Run]:
    """Writes the records of runs that have ended without one, from the files that they left; returns those runs.

    Args:
        study: the study.
        folder: the folder of the study.
        revision: the revision of its code.
        strict: whether a run with broken files is an error; otherwise it is left out.

    Raises:
        UserError: a record or a run's folder does not fit the study.
    """
    done = folder.records(study.runs())
    left = [run for run in study.runs() if run.name not in done]
    for run in left:
        check_begun(folder.work(run), study, run, revision)
    found = []
    for run in left:
        if is_finished(folder.work(run)):
            try:
                record = make_record(study.name, run, revision, folder.work(run), None)
            except UserError:
                if strict:
                    raise
                continue
            write_record(folder.record(run), record)
            folder.failure(run).unlink(missing_ok=True)
            found.append(run)
    return found


def _write_failure(path: Path, problem: str, log: Path) -> None:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    content = "\n".join([problem, f"The last lines of {log}:", *lines]) + "\n"
    replace_file(path, lambda file: file.write(content.encode()))


def slots(jobs: int | None, environment: Mapping[str, str], gpus: Sequence[str]) -> list[dict[str, str]]:
    """The environments of the runs that may run at the same time.

    Args:
        jobs: the number of runs; None: one for each GPU, or for each core.
        environment: the environment of this process.
        gpus: the GPUs by their names in CUDA_VISIBLE_DEVICES; runs share them if there are fewer than `jobs`.
    """
    count = jobs or len(gpus) or available_cores()
    return [
        {**environment, **({"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {})} for index in range(count)
    ]
