"""The places of a study's files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adet_iuq.studies.begun import is_begun
from adet_iuq.studies.processes import LOCK_FILE, is_held
from adet_iuq.studies.record import Record, check_record, read_records
from adet_iuq.studies.study import Run


@dataclass(frozen=True)
class StudyFolder:
    """The output folder of a study.

    runs/NAME.json: the records of finished runs; failed/NAME.txt: why others failed; work/NAME/: the OUTPUT_DIR of a
    run; code/: the revision that all runs use; report.md and figures; lock, pause, paused: for runner and commands.

    Attributes:
        path: the path of the folder.
    """

    path: Path

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def lock(self) -> Path:
        """The lock that the runner holds."""
        return self.path / "lock"

    @property
    def pause(self) -> Path:
        """A file that exists while a pause is wanted."""
        return self.path / "pause"

    @property
    def paused(self) -> Path:
        """A file that exists while all runs are paused."""
        return self.path / "paused"

    def record(self, run: Run) -> Path:
        return self.runs / f"{run.name}.json"

    def failure(self, run: Run) -> Path:
        return self.path / "failed" / f"{run.name}.txt"

    def work(self, run: Run) -> Path:
        return self.path / "work" / run.name

    def records(self, runs: Sequence[Run]) -> dict[str, Record]:
        """The records of finished runs by name, without those of arms, data sets or seeds that the study no longer has.

        Raises:
            UserError: a file is broken, or was made with other overrides than those in the study's file today.
        """
        wanted = {run.name: run for run in runs}
        found = {record.name: record for record in read_records(self.runs) if record.name in wanted}
        for name, record in found.items():
            check_record(record, wanted[name], self.runs)
        return found

    def state(self, run: Run) -> str:
        """ "done", "running", "failed", "cut" (in the middle) or "to do"."""
        if self.record(run).is_file():
            return "done"
        if is_held(self.work(run) / LOCK_FILE) is not None:
            return "running"
        if self.failure(run).is_file():
            return "failed"
        return "cut" if is_begun(self.work(run)) else "to do"
