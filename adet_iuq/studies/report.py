"""Writes a study's report from the records of its runs alone, so that equal records give equal bytes."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from adet_iuq.errors import UserError
from adet_iuq.files import replace_file
from adet_iuq.studies.figures import COSINE, write_curves, write_figure, write_panels
from adet_iuq.studies.folder import StudyFolder
from adet_iuq.studies.record import Record
from adet_iuq.studies.revision import single_revision
from adet_iuq.studies.study import Study
from adet_iuq.studies.tables import Table, chosen_metrics, difference_table, mean_table

REPORT_FILE = "report.md"
_NOTES = (
    "Runs of one seed share initial weights, and read the images in the same order. Intervals are Student's t intervals "
    "of the mean paired difference over seeds, for these images for training and evaluation; with several arms and "
    "metrics some exclude zero by chance. `cost` is the mean over seeds of an arm's processor time (on a GPU: of "
    "its time) over that of the base arm, start and evaluation included, runs that were killed in the middle left out. "
    "`train/` metrics are means over the last fifth of the training."
)


def gather(study: Study, folders: Sequence[Path]) -> list[Record]:
    """The records of a study from one or several folders (of several machines), in the order of its runs.

    Raises:
        UserError: there are no records; they are of several revisions; a run is there twice; a record does not fit the
            study; or runs of one arm have different configs.
    """
    runs = study.runs()
    found: dict[str, Record] = {}
    for folder in folders:
        for name, record in StudyFolder(folder).records(runs).items():
            if name in found:
                raise UserError(f"The run {name} is in several of {', '.join(map(str, folders))}.")
            found[name] = record
    if not found:
        raise UserError(f"No finished runs of {study.name} in {', '.join(str(f / 'runs') for f in folders)}.")
    records = [found[run.name] for run in runs if run.name in found]
    single_revision(record.revision for record in records)
    configs: dict[tuple[str, str], str] = {}
    for record in records:
        if configs.setdefault((record.dataset, record.arm), record.config_sha256) != record.config_sha256:
            raise UserError(
                f"The config of {record.name} differs from that of other seeds of its arm: {study.config} has changed."
            )
    return records


def write_report(study: Study, folders: Sequence[Path], console: Console | None = None) -> Path:
    """Writes report.md and the figures of each data set to the first folder, and prints the tables. Returns its path.

    Raises:
        UserError: see `gather`; a file cannot be written.
    """
    records = gather(study, folders)
    console = console or Console()
    if not console.is_terminal:
        console.width = 160  # room for all columns in a file
    parts = [_head(study, records)]
    for dataset in study.datasets:
        mine = [record for record in records if record.dataset == dataset]
        if not mine:
            continue
        tables = dataset_tables(study, mine)
        title = f"{study.title}, {dataset}" if dataset else study.title
        pictures = _write_figures(folders[0], study, mine, f"_{dataset}" if dataset else "", title)
        parts += [
            f"## {dataset}\n" if dataset else "",
            *(table.markdown() for table in tables),
            *(f"![{title}]({picture})\n" for picture in pictures),
        ]
        for table in tables:
            console.print(table.rich())
    text = "\n".join(part for part in [*parts, _NOTES + "\n"] if part)
    path = folders[0] / REPORT_FILE
    replace_file(path, lambda file: file.write(text.encode()))
    return path


def dataset_tables(study: Study, records: Sequence[Record]) -> list[Table]:
    """The tables of one data set's records: the means, and the differences to the base arm and to each control.

    Each comes twice if there is more than AP: for AP in all its forms, and for what is measured inside the model.

    Raises:
        UserError: no record has any of the study's metrics.
    """
    metrics = chosen_metrics(study.metrics, records)
    if not metrics:
        known = sorted({name for record in records for name in record.metrics()})
        raise UserError(f"metrics of {study.path}: no run has any of them. There are {', '.join(known)}.")
    tables = []
    for group in filter(None, _accuracy_and_inside(metrics)):
        tables.append(mean_table(study, records, group))
        tables += [difference_table(study, records, group, control) for control in (study.base, *study.controls)]
    return tables


def _accuracy_and_inside(metrics: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the metrics into AP in all its forms and the others."""
    accuracy = [name for name in metrics if name.split("/")[-1].startswith("AP")]
    return accuracy, [name for name in metrics if name not in accuracy]


def _write_figures(folder: Path, study: Study, records: Sequence[Record], suffix: str, title: str) -> list[str]:
    """Writes a figure of the first metric, of what is measured inside, and of the gradients, as far as they are there.

    Returns:
        The names of the files.
    """
    metrics = chosen_metrics(study.metrics, records)
    names = [f"figure{suffix}.svg"]
    write_figure(folder / names[0], study, records, metrics[0], title)
    inside = [name for name in _accuracy_and_inside(metrics)[1] if not name.startswith("train/")]
    if inside:
        names.append(f"inside{suffix}.svg")
        write_panels(folder / names[-1], study, records, inside, f"{title}: inside the model, on held-out images")
    if any(COSINE in record.curves for record in records):
        names.append(f"gradients{suffix}.svg")
        write_curves(folder / names[-1], study, records, title)
    return names


def _head(study: Study, records: Sequence[Record]) -> str:
    machines = sorted({f"{one.machine['processor']}, torch {one.machine['torch']}" for one in records if one.machine})
    missing = len(study.runs()) - len(records)
    rest = f" **{missing} runs are missing.**" if missing else ""
    iterations = ", ".join(str(number) for number in sorted({record.iterations for record in records}))
    return (
        f"# {study.title}\n\n"
        f"{len(records)} runs of {iterations} iterations, revision {records[0].revision}.{rest} "
        f"Machine: {'; '.join(machines) or 'not known'}.\n"
    )
