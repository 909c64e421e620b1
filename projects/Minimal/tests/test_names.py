"""Project and configs are found by name from any folder, as in an installed package."""

from pathlib import Path

import pytest

from adet_iuq.config import find_recipe, import_project
from adet_iuq.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert import_project("projects/Minimal") is import_project(str(PROJECT))
    assert Path(find_recipe("projects/Minimal/configs/shapes.yaml")) == PROJECT / "configs/shapes.yaml"
    with pytest.raises(UserError, match="projects/Minimall: there is no such folder"):
        import_project("projects/Minimall")
