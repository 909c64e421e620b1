"""Table 3 on embryos in the time that there is: runs of configs/Studies/table3_embryos.yaml, several at once on one GPU.

Runs start seed by seed. Whatever has not ended in time is ended, and only seeds with all arms count.
"""

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from adet_iuq.studies import Run, Runner, Study, load_study
from adet_iuq.studies.commands import ONE_THREAD, command
from adet_iuq.studies.folder import StudyFolder
from adet_iuq.studies.record import Record
from adet_iuq.studies.report import write_report
from adet_iuq.studies.revision import Code
from adet_iuq.studies.runner import slots

from .stage import Row, Settings

_STUDY = Path("configs/Studies/table3_embryos.yaml")
_AT_ONCE = 10  # two seeds of five arms: small models, which leave a GPU idle most of the time
_RESERVE = 20.0  # seconds for the end and the report
_METRICS = {"segm/AP": "AP", "segm/AP50": "AP50", "queries/fire_rate": "fire rate"}


def rows(settings: Settings) -> Iterator[Row]:
    """A row for each arm: means over the seeds that are complete, and differences from the base arm."""
    study = load_study(_STUDY.resolve(), quick=settings.dry)
    if settings.dry:
        arms = {name: study.arms[name] for name in ("base", "both")}
        study = replace(study, seeds=study.seeds[:1], arms=arms, controls=())
    folder = StudyFolder((settings.folder / "table3").resolve())
    shutil.rmtree(folder.path, ignore_errors=True)  # runs of other code would count as done
    train(study, folder, settings)
    records = folder.records(study.runs())
    if records:
        print(write_report(study, [folder.path]))
    yield from table(study, records)


def train(study: Study, folder: StudyFolder, settings: Settings) -> None:
    """Does as many runs as fit the time; the runner takes SIGTERM as the wish to stop, and a second one to end at once."""
    code = Code(Path.cwd(), "as it was here", Path.cwd())
    gpus = ["0"] if settings.device == "cuda" else []
    environments = slots(settings.pick(_AT_ONCE, 1), {**code.environment(os.environ), **ONE_THREAD}, gpus)

    def start(run: Run, work: Path) -> Sequence[str]:
        return command(study, run, code, work, gpu=bool(gpus))

    timers = [
        threading.Timer(max(settings.seconds - _RESERVE + delay, 1), os.kill, (os.getpid(), signal.SIGTERM))
        for delay in (0.0, 5.0)
    ]
    for timer in timers:
        timer.start()
    try:
        Runner(study, folder, code.revision, start, environments).run()
    finally:
        for timer in timers:
            timer.cancel()


def table(study: Study, records: dict[str, Record]) -> Iterator[Row]:
    """The rows of all arms."""
    found = {(record.arm, record.seed): record for record in records.values()}
    seeds = [seed for seed in study.seeds if all((arm, seed) in found for arm in study.arms)]
    for arm in study.arms:
        mine = [found[arm, seed].metrics() for seed in seeds]
        base = [found[study.base, seed].metrics() for seed in seeds]
        row: Row = {"arm": arm, "seeds": len(seeds)}
        for metric, name in _METRICS.items():
            values = [values[metric] for values in mine if metric in values]
            row[name] = round(mean(values), 3) if values else None
        gains = [
            a["segm/AP"] - b["segm/AP"] for a, b in zip(mine, base, strict=True) if "segm/AP" in a and "segm/AP" in b
        ]
        row["AP above base"] = round(mean(gains), 3) if gains else None
        row["seconds a run"] = round(mean(found[arm, seed].usage.wall_s for seed in seeds), 1) if seeds else None
        yield row
