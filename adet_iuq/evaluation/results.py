"""The results of an evaluation: a table for people, and results.json for programs."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)

RESULTS_FILE = "results.json"

# {task: {metric: value}} of one data set.
Results = Mapping[str, Mapping[str, float]]


def by_dataset(results: Mapping[str, Any], datasets: Sequence[str]) -> dict[str, Results]:
    """The results under the names of their data sets; detectron2 omits the name if there is only one."""
    return {datasets[0]: results} if len(datasets) == 1 else dict(results)


def report_results(results: Mapping[str, Any], datasets: Sequence[str], output_dir: str) -> None:
    """Writes OUTPUT_DIR/results.json ({data set: {task: {metric: value or null}}}) and says where predictions are."""
    named = by_dataset(results, datasets)
    clean = {
        name: {task: {metric: _number(value) for metric, value in metrics.items()} for task, metrics in tasks.items()}
        for name, tasks in named.items()
    }
    content = json.dumps(clean, indent=2) + "\n"
    replace_file(Path(output_dir) / RESULTS_FILE, lambda file: file.write(content.encode()))
    for name, tasks in named.items():
        folder = os.path.join(output_dir, "inference", name)
        if not tasks:
            logger.info(
                "'%s' has no annotations to evaluate against. Its predictions, in the format of the evaluation servers, "
                "are in %s (*_instances_results.json).",
                name,
                folder,
            )


def print_results(results: Mapping[str, Any], datasets: Sequence[str], console: Console | None = None) -> None:
    """Prints tables with a row per task (bbox, segm) and a column per metric; metrics per category are left out.

    Tasks with the same metrics share a table. A data set with other metrics as well (PQ) has more than one table.

    Args:
        results: the results of `Trainer.test` or of results.json, with None for a value that is not a number.
        datasets: DATASETS.TEST.
        console: the console to print to; None: standard output.
    """
    console = console or Console(width=100)
    for name, tasks in by_dataset(results, datasets).items():
        tables: dict[tuple[str, ...], Table] = {}
        for task, values in tasks.items():
            metrics = tuple(metric for metric in values if "-" not in metric)
            if metrics and metrics not in tables:
                tables[metrics] = Table("task", title=f"Results on {name}", title_justify="left")
                for metric in metrics:
                    tables[metrics].add_column(metric, justify="right")
            if metrics:
                tables[metrics].add_row(task, *(_text(values[metric]) for metric in metrics))
        for table in tables.values():
            console.print(table)


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _text(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.2f}"
