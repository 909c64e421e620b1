"""The reports under docs/results say what the runs beside them say."""

import shutil
from importlib import metadata
from pathlib import Path

import pytest

from adet_iuq.studies import load_study
from adet_iuq.studies.report import REPORT_FILE, write_report
from helpers.golden import REPOSITORY

FIGURES_BY = "3.11.2"  # the version of matplotlib that drew the figures; another one may draw other bytes
FOLDERS = sorted(path.parent for path in (REPOSITORY / "docs/results").glob("*/runs"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_report_is_rebuilt_from_its_runs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs")
    write_report(load_study(REPOSITORY / "configs/Studies" / f"{folder.name}.yaml"), [tmp_path])
    assert (tmp_path / REPORT_FILE).read_text() == (folder / REPORT_FILE).read_text()
    rebuilt, committed = ({path.name: path.read_bytes() for path in one.glob("*.svg")} for one in (tmp_path, folder))
    assert rebuilt and rebuilt.keys() == committed.keys()
    if metadata.version("matplotlib") == FIGURES_BY:
        assert [name for name in rebuilt if rebuilt[name] != committed[name]] == []


def test_every_report_is_linked() -> None:
    text = "".join(page.read_text() for page in (REPOSITORY / "docs").glob("results*.md"))
    assert [folder.name for folder in FOLDERS if f"results/{folder.name}/{REPORT_FILE}" not in text] == []
