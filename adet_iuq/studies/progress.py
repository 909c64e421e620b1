"""How far a study is: a line for every run that starts or ends, a table, and the time left."""

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
    """An estimate of the seconds until all is done; None before the first run has ended.

    A run takes as long as the finished ones of its arm and data set did on average, else as all did.

    Args:
        records: of finished runs.
        todo: runs that have not started.
        running: seconds since their start, by run.
        jobs: how many run at once.
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
    """For people: 1:02:03."""
    return "unknown" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def status_table(title: str, folder: StudyFolder, runs: Sequence[Run]) -> Table:
    """Runs in each state: a row an arm (of a data set), a column a state, and the seeds that run now."""
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
