"""The JSON file of a finished run, from which all tables and figures are made.

Names of metrics: `segm/AP` of the run's first test set, `NAME/segm/AP` of any other one, and `train/KEY`, the mean over
the last fifth of the training of a key of metrics.json (all losses and everything below `iuq/`). `segm/AP@320` is the
value after 320 iterations, of a run that was evaluated on the way (TEST.EVAL_PERIOD).
"""

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from adet_iuq.errors import UserError
from adet_iuq.files import replace_file
from adet_iuq.studies.study import Run

# The files that a training writes to OUTPUT_DIR.
CONFIG_FILE, RESULTS_FILE, METRICS_FILE = "config.yaml", "results.json", "metrics.json"
AP = "segm/AP"
LAST_PART = 0.2  # share of the training, at its end, over which series are averaged
# These lines say where a run was made and with which seed, which does not distinguish the runs of an arm.
_NO_PART_OF_THE_RUN = re.compile(r"^(SEED|OUTPUT_DIR|  NUM_WORKERS|  DEVICE):.*\n", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """The time that a run took.

    Attributes:
        wall_s: seconds, without pauses.
        cpu_s: seconds of processor time, user and system.
        whole: whether all parts were measured and none was done twice, as happens if a run is killed in the middle.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    whole: bool = True


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        study: the name of the study.
        dataset: the name of the data set, as in the study's file.
        arm: the name of the arm, as in the study's file.
        seed: the seed.
        overrides: the overrides, as in the study's file.
        revision: the revision of the code.
        config_sha256: the sha256 of the run's config.yaml without its seed and the lines that say where it ran.
        device: MODEL.DEVICE.
        iterations: SOLVER.MAX_ITER.
        machine: the machine that it ran on; empty if that is not known.
        usage: the time that it took.
        results: the content of its results.json.
        series: means over the last fifth of the training.
        curves: iterations and values along the training of the gradients' ratio and cosine (GUARD.GRADIENT_RATIO_PERIOD),
            and of `segm/AP` on the first test set before the end (TEST.EVAL_PERIOD).
    """

    study: str
    dataset: str
    arm: str
    seed: int
    overrides: list[str]
    revision: str
    config_sha256: str
    device: str
    iterations: int
    machine: dict[str, Any]
    usage: Usage
    results: dict[str, dict[str, dict[str, float | None]]]
    series: dict[str, float]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the run's files."""
        return Run(self.dataset, self.arm, self.seed, ()).name

    @property
    def cost(self) -> float | None:
        """The seconds of the processor that did the work (the CPU, or the whole GPU); None if they were not measured."""
        seconds = self.usage.cpu_s if self.device == "cpu" else self.usage.wall_s
        return seconds if self.usage.whole and seconds > 0 else None

    def metrics(self) -> dict[str, float]:
        """All numbers by the names that the module's text describes, without values that are not numbers."""
        named: dict[str, float | None] = {}
        for index, (dataset, tasks) in enumerate(self.results.items()):
            for task, values in tasks.items():
                prefix = f"{task}/" if index == 0 else f"{dataset}/{task}/"
                named.update({prefix + metric: value for metric, value in values.items()})
        named.update({f"train/{key}": value for key, value in self.series.items()})
        named.update({f"{AP}@{iteration}": value for iteration, value in self.curves.get(AP, ())})
        return {name: value for name, value in named.items() if value is not None and math.isfinite(value)}


def make_record(study: str, run: Run, revision: str, folder: Path, usage: Usage | None) -> Record:
    """The record of a run that has ended well.

    Args:
        study: the name of the study.
        run: the run.
        revision: the revision of the code that it used.
        folder: the run's OUTPUT_DIR.
        usage: the time that it took; None if this runner did not start it, and so knows neither its time nor its machine.

    Raises:
        UserError: a file that every finished training writes is missing or broken.
    """
    try:
        dump = (folder / CONFIG_FILE).read_text()
        config = yaml.safe_load(dump)
        results = json.loads((folder / RESULTS_FILE).read_text())
        lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
        device, iterations = config["MODEL"]["DEVICE"], config["SOLVER"]["MAX_ITER"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{folder} is not the folder of a finished run: {error}. (A study needs a test set, DATASETS.TEST.)"
        ) from error
    measured = usage or Usage(whole=False)
    return Record(
        study=study,
        dataset=run.dataset,
        arm=run.arm,
        seed=run.seed,
        overrides=list(run.overrides),
        revision=revision,
        config_sha256=hashlib.sha256(_NO_PART_OF_THE_RUN.sub("", dump).encode()).hexdigest(),
        device=device,
        iterations=iterations,
        machine=machine(device) if usage else {},
        usage=dataclasses.replace(measured, wall_s=round(measured.wall_s, 2), cpu_s=round(measured.cpu_s, 2)),
        results=results,
        series=series(lines, iterations),
        curves=curves(lines, next(iter(results), ""), iterations),
    )


def is_finished(folder: Path) -> bool:
    """Whether a training in `folder` has ended, including the evaluation: its metrics end with the last iteration."""
    try:
        last = json.loads((folder / METRICS_FILE).read_text().splitlines()[-1])
        config = yaml.safe_load((folder / CONFIG_FILE).read_text())
        ended = bool(last["iteration"] >= config["SOLVER"]["MAX_ITER"])
    except (OSError, ValueError, IndexError, KeyError, TypeError, yaml.YAMLError):
        return False
    return ended and (folder / RESULTS_FILE).is_file()


def series(lines: list[dict[str, Any]], iterations: int) -> dict[str, float]:
    """The means of all losses and of everything below `iuq/` over the last fifth of the training, of finite numbers."""
    late = [line for line in lines if (1 - LAST_PART) * iterations <= line["iteration"] < iterations]
    means = {}
    for key in sorted({key for line in late for key in line if key.startswith("iuq/") or "loss" in key}):
        values = [line[key] for line in late if key in line and math.isfinite(line[key])]
        if values:
            means[key] = sum(values) / len(values)
    return means


def curves(lines: list[dict[str, Any]], dataset: str, iterations: int) -> dict[str, list[tuple[int, float]]]:
    """The finite values along the training, with the numbers of their iterations and four significant digits.

    These are everything below `iuq/gradient_`, and the AP on the data set before the end of the training, which
    metrics.json calls `segm/AP` or `DATASET/segm/AP`. An iteration has the number of metrics.json, which counts from 0; an
    AP has the number of iterations that were done.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        done = line["iteration"] + 1
        values = {key: (line["iteration"], line[key]) for key in line if key.startswith("iuq/gradient_")}
        ap = line.get(AP, line.get(f"{dataset}/{AP}"))
        if ap is not None and done < iterations:
            values[AP] = (done, ap)
        for key, (iteration, value) in values.items():
            if math.isfinite(value):
                found.setdefault(key, []).append((iteration, float(f"{value:.4g}")))
    return found


def machine(device: str) -> dict[str, Any]:
    """A description of this machine, for comparing costs; `device` is the run's MODEL.DEVICE."""
    found = {"processor": _processor(), "cores": os.cpu_count(), "torch": metadata.version("torch")}
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def write_record(path: Path, record: Record) -> None:
    """Writes a record so that nobody ever sees half of it.

    Raises:
        UserError: it cannot be written.
    """
    content = json.dumps(dataclasses.asdict(record), indent=1) + "\n"
    replace_file(path, lambda file: file.write(content.encode()))


def read_records(folder: Path) -> Iterator[Record]:
    """All records in a folder, sorted by the names of their files.

    Raises:
        UserError: a file is no record.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            yield Record(**{**content, "usage": Usage(**content["usage"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} is not the record of a run: {error}. Move it away: the same command makes it again from the run's "
                "folder work, or does the run again if that is not there."
            ) from error


def check_record(record: Record, run: Run, where: Path) -> None:
    """Checks that a record belongs to the run that the study's file describes today.

    Raises:
        UserError: the file has changed since.
    """
    if record.overrides != list(run.overrides):
        raise UserError(
            f"{where / record.name}.json was made with other overrides ({' '.join(record.overrides)}) than the study's file "
            f"names today ({' '.join(run.overrides)}). Give the arm another name, choose another folder with --output, or "
            "delete the record and the run's folder in work to do the run again."
        )
