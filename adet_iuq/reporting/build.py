"""Makes report.html from the files of a run. Nothing is predicted here, and nothing else is written.

config.yaml, report.json                what was run, and where
metrics.json                            curves
results.json                            tables
inference/<data set>/                   predictions, and what they were measured against (evaluation.json)
label_grid.jpg                          training images
"""

from pathlib import Path

import orjson

from adet_iuq.data.images.reading import read_image
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file
from adet_iuq.reporting.data_set import Results, set_part
from adet_iuq.reporting.facts import config_value, read_facts
from adet_iuq.reporting.figures import history_figure
from adet_iuq.reporting.history import iterations_done, panels, read_history
from adet_iuq.reporting.label_grid import GRID_FILE
from adet_iuq.reporting.page import Page, render
from adet_iuq.reporting.pictures import data_url, jpeg_url, shrunk
from adet_iuq.reporting.process import REPORT_FILE

RESULTS_FILE = "results.json"
_PICTURE_BYTES = 3 << 20  # bytes of the worst pictures of all sets together
_GRID_BYTES, _GRID_SIDE = 500_000, 1400  # a label grid of more bytes is shrunk to this longer side in pixels
_DEFAULT_WORST = 16


def build_report(folder: Path) -> Path:
    """Writes the report of the run in `folder`; returns its path. The report names everything that is missing.

    Raises:
        UserError: the folder is not that of a run, a file in it is damaged, or the report cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Name the OUTPUT_DIR of a run.")
    facts, history, results = read_facts(folder), read_history(folder), _results(folder)
    if not history and not results:
        raise UserError(f"{folder} holds neither metrics.json nor {RESULTS_FILE}: it is not the OUTPUT_DIR of a run.")
    worst = int(config_value(facts.values, "REPORT.WORST", _DEFAULT_WORST))
    deep_images = str(config_value(facts.values, "INPUT.DEEP_IMAGES", "dtype"))
    parts = [
        set_part(folder, name, results, worst=worst, deep_images=deep_images, most_bytes=_PICTURE_BYTES // len(results))
        for name in results
    ]
    page = Page(
        name=folder.absolute().name,
        facts=facts,
        iterations=iterations_done(history),
        panels=[(panel.title, history_figure(panel)) for panel in panels(history)],
        parts=parts,
        label_grid=_label_grid(folder),
        missing=_missing(folder, bool(history), bool(results)),
    )
    content = render(page).encode()
    replace_file(folder / REPORT_FILE, lambda file: file.write(content))
    return folder / REPORT_FILE


def _results(folder: Path) -> Results:
    path = folder / RESULTS_FILE
    if not path.is_file():
        return {}
    try:
        results: Results = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}). Evaluate once more: --eval-only --resume.") from error
    return results


def _label_grid(folder: Path) -> str:
    """The picture as a data URL, shrunk if the file is large; empty if there is none."""
    path = folder / GRID_FILE
    if not path.is_file():
        return ""
    content = path.read_bytes()
    if len(content) <= _GRID_BYTES:
        return jpeg_url(content)
    return data_url(shrunk(read_image(path, "BGR"), _GRID_SIDE))


def _missing(folder: Path, history: bool, results: bool) -> list[str]:
    """Sentences about what the report lacks because files are missing."""
    notes = []
    if not history:
        notes.append("No curves: the folder has no metrics.json, which a training writes.")
    if not results:
        notes.append(f"No results: the folder has no {RESULTS_FILE}; the run has not been evaluated (yet).")
    if not (folder / GRID_FILE).is_file() and history:
        notes.append(f"No training images: the folder has no {GRID_FILE}.")
    return notes
