"""The reports under docs/results say what the runs beside them say."""

import shutil
from pathlib import Path

import pytest

from adet_iuq.studies import load_study
from adet_iuq.studies.report import REPORT_FILE, write_report
from helpers.golden import REPOSITORY

FOLDERS = sorted(path.parent for path in (REPOSITORY / "docs/results").glob("*/runs"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_report_is_rebuilt_from_its_runs(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs")
    write_report(load_study(REPOSITORY / "configs/Studies" / f"{folder.name}.yaml"), [tmp_path])
    assert (tmp_path / REPORT_FILE).read_text() == (folder / REPORT_FILE).read_text()


def test_every_report_is_linked() -> None:
    text = (REPOSITORY / "docs/results.md").read_text() if FOLDERS else ""
    assert [folder.name for folder in FOLDERS if f"results/{folder.name}/{REPORT_FILE}" not in text] == []
