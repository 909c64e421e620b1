"""The progress of a study: a line for every run that starts or ends, a table, and the time left."""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.table import Table

from adet_iuq.studies.folder import StudyFolder
from adet_iuq.studies.record import Record
from adet_iuq.studies.study import Run


def seconds_left(
    records: Mapping[str, Record], todo: Sequence[Run], running: Mapping[Run, float], jobs: int
) -> float | None:
    """An estimate of the seconds until everything is done; None before the first run has ended.

    The expected time of a run is the mean of the finished runs of its arm and data set, or else of all runs.

    Args:
        records: the records of finished runs.
        todo: the runs that have not started.
        running: the seconds since their start, by run.
        jobs: the number of runs at the same time.
    """
    times: dict[tuple[str, str], list[float]] = {}
    for record in records.values():
        if record.usage.wall_s > 0:
            times.setdefault((record.dataset, record.arm), []).append(record.usage.wall_s)
    if not times:
        return None
    everywhere = [seconds for several in times.values() for seconds in several]

    def expected(run: Run) -> float:
        known = times.get((run.dataset, run.arm), everywhere)
        return sum(known) / len(known)

    rest = {run: max(0.0, expected(run) - seconds) for run, seconds in running.items()}
    work = sum(rest.values()) + sum(expected(run) for run in todo)
    return max(work / jobs, *rest.values(), 0.0) if rest else work / jobs


def duration(seconds: float | None) -> str:
    """A duration in the form 1:02:03."""
    return "unknown" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def status_table(title: str, folder: StudyFolder, runs: Sequence[Run]) -> Table:
    """The runs in each state: a row per arm (of a data set), a column per state, and the seeds that run now."""
    states = ("done", "running", "cut", "failed", "to do")
    table = Table(*(["data set"] if any(run.dataset for run in runs) else []), "arm", title=title, title_justify="left")
    for state in states:
        table.add_column(state, justify="right")
    counts: dict[tuple[str, str], Counter[str]] = {}
    for run in runs:
        counts.setdefault((run.dataset, run.arm), Counter())[folder.state(run)] += 1
    for (dataset, arm), count in counts.items():
        table.add_row(*([dataset] if dataset else []), arm, *(str(count[state] or "-") for state in states))
    return table
