"""Config files are found by name, in a checkout and in an installed package."""

from pathlib import Path

import pytest

import adet_iuq
from adet_iuq.config import find_recipe, load_config
from adet_iuq.errors import UserError
from helpers.golden import REPOSITORY

RECIPE = REPOSITORY / "configs/CondInst/R50_1x_iuq.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is a path from here by chance."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name", ["CondInst/R50_1x_iuq.yaml", "CondInst/R50_1x_iuq", "configs/CondInst/R50_1x_iuq.yaml"]
)
def test_names_below_configs(name: str) -> None:
    assert Path(find_recipe(name)) == RECIPE
    assert load_config(name).cfg.MODEL.META_ARCHITECTURE == "CondInstIUQ"


def test_names_of_other_kinds() -> None:
    assert Path(find_recipe("lazy/condinst_iuq.py")) == REPOSITORY / "configs/lazy/condinst_iuq.py"
    assert find_recipe("https://example.com/model.yaml") == "https://example.com/model.yaml"


def test_a_path_that_exists_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quickstart.yaml").write_text("SEED: 7\n")
    assert find_recipe("quickstart.yaml") == "quickstart.yaml"
    assert load_config("quickstart.yaml").cfg.SEED == 7
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_recipe("~/quickstart.yaml") == str(tmp_path / "quickstart.yaml")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CondInst/R50_x1_iuq.yaml", r"Did you mean .*CondInst/R50_1x_iuq\.yaml"),
        (
            "R50_1x_iuq.yaml",
            r"R50_1x_iuq\.yaml does not exist; the working folder is .*Did you mean .*/R50_1x_iuq\.yaml",
        ),
        ("nothing_like_it", r"nothing_like_it does not exist.*this name either\.$"),
        ("../pyproject.toml", r"does not exist"),
        ("setup.py", r"does not exist"),
    ],
)
def test_a_name_of_nothing_lists_those_that_come_close(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(name)


def test_a_base_may_be_a_packaged_file(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text('_BASE_: ["CondInst/R50_1x_iuq.yaml", "iuq.yaml"]\nSEED: 3\n')
    loaded = load_config("own.yaml")
    assert loaded.cfg.MODEL.META_ARCHITECTURE == "CondInstIUQ" and loaded.cfg.SEED == 3
    (tmp_path / "iuq.yaml").write_text("OUTPUT_DIR: mine\n")  # beside the file: goes first
    assert load_config(str(own)).cfg.OUTPUT_DIR == "mine"
    own.write_text("_BASE_: CondInst/R50_x1.yaml\n")
    with pytest.raises(UserError, match=r"CondInst/R50_x1\.yaml \(a _BASE_ of own\.yaml\) does not exist"):
        load_config("own.yaml")
    own.write_text(f"_BASE_: {tmp_path}/CondInst/R50_1x_iuq.yaml\n")  # no packaged file takes the place of a full path
    with pytest.raises(UserError, match=r"does not exist.*Did you mean CondInst/R50_1x_iuq\.yaml"):
        load_config("own.yaml")


def test_an_installed_package_has_both_folders_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages/adet_iuq"
    for file in (package / "configs/A/one.yaml", package / "projects/Own/configs/two.yaml"):
        file.parent.mkdir(parents=True)
        file.write_text("SEED: 1\n")
    (package / "projects/Own/configs/two.yaml").write_text("_BASE_: ../../../configs/A/one.yaml\n")
    monkeypatch.setattr(adet_iuq, "__file__", str(package / "__init__.py"))
    assert find_recipe("A/one.yaml") == str(package / "configs/A/one.yaml")
    assert load_config("projects/Own/configs/two.yaml").cfg.SEED == 1
    with pytest.raises(UserError):
        find_recipe("CondInst/R50_1x_iuq.yaml")
