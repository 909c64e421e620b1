"""A study's file: what it becomes, and what is refused."""

from pathlib import Path

import pytest
import yaml

from adet_iuq.errors import UserError
from adet_iuq.studies import load_study
from adet_iuq.studies.commands import words
from adet_iuq.studies.revision import Code

WHOLE = {
    "name": "small",
    "config": "base.yaml",
    "base": "off",
    "seeds": [3, 1],
    "arms": {"off": ["MODEL.IUQ.INTER.ENABLED", False], "on": []},
}


def written(folder: Path, **changes: object) -> Path:
    """A study's file with some keys changed, or left out where the value is None."""
    (folder / "base.yaml").write_text("{}\n")
    tree = {key: value for key, value in {**WHOLE, **changes}.items() if value is not None}
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder / "study.yaml"


def test_runs_come_seed_by_seed_with_overrides_from_the_outside_in(tmp_path: Path) -> None:
    study = load_study(
        written(tmp_path, overrides=["A", 1], datasets={"x": ["A", 2], "y": ["DATASETS.TRAIN", ["y_train"]]})
    )
    assert [run.name for run in study.runs()] == [
        "x.off.seed3", "x.on.seed3", "y.off.seed3", "y.on.seed3", "x.off.seed1", "x.on.seed1", "y.off.seed1", "y.on.seed1",
    ]  # fmt: skip
    assert study.runs()[0].overrides == ("A", "1", "A", "2", "MODEL.IUQ.INTER.ENABLED", "False")
    assert study.runs()[3].overrides == ("A", "1", "DATASETS.TRAIN", "['y_train']")


def test_without_data_sets_there_is_one_without_a_name(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    assert [run.name for run in study.runs()] == ["off.seed3", "on.seed3", "off.seed1", "on.seed1"]
    assert study.title == "small" and "segm/AP" in study.metrics and not study.keep_weights


def test_quick_is_a_part_with_the_last_word(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        arms={"off": ["B", 1], "on": [], "more": []},
        quick={"seeds": [7], "arms": ["on", "off"], "overrides": ["B", 2]},
    )
    study = load_study(path, quick=True)
    assert study.name == "small_quick"
    assert [(run.name, run.overrides) for run in study.runs()] == [
        ("off.seed7", ("B", "1", "B", "2")), ("on.seed7", ("B", "2")),
    ]  # fmt: skip
    assert load_study(path).runs()[0].overrides == ("B", "1")


def test_controls_are_arms_and_quick_drops_those_that_it_leaves_out(tmp_path: Path) -> None:
    path = written(tmp_path, controls=["on"], quick={"arms": ["off"]})
    assert load_study(path).controls == ("on",) and load_study(path, quick=True).controls == ()
    with pytest.raises(UserError, match=r"controls in .*: there is no gone"):
        load_study(written(tmp_path, controls=["gone"]))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"sedes": [1]}, "unknown key sedes"),
        ({"arms": None}, "the key arms is missing"),
        ({"base": "none"}, "there is no none; there are off, on"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"seeds": [True]}, "different whole numbers"),
        ({"seeds": 3}, "different whole numbers"),
        ({"arms": {"off": ["KEY"]}}, "off of arms.*pairs"),
        ({"arms": {"off": [1, "KEY"]}}, "1 stands where the name of a config key"),
        ({"arms": {"off": ["SEED", 3]}}, "SEED is set by the runner"),
        ({"arms": {"../off": []}}, "becomes the name of a file"),
        ({"name": "a/b"}, "becomes the name of a file"),
        ({"config": "other.yaml"}, "other.yaml does not exist"),
        ({"controls": 5}, "controls .* must be a list of arms"),
        ({"controls": "on"}, "controls .* must be a list of arms"),
        ({"metrics": "segm/AP"}, "list of names"),
        ({"keep_weights": "no"}, "true or false"),
        ({"datasets": {}}, "datasets .* must map names"),
        ({"projects": "one"}, "list of folders"),
        ({"projects": ["one"]}, "one is no folder with an __init__.py"),
        ({"quick": {"epochs": 1}}, "unknown key epochs"),
        ({"quick": {"arms": ["on"]}}, "leave out the base arm"),
        ({"quick": {"arms": ["off", "up"]}}, "there is no up"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_study(written(tmp_path, **changes))


def test_projects_are_words_of_every_run(tmp_path: Path) -> None:
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / "__init__.py").touch()
    study = load_study(written(tmp_path, projects=["brought"]))
    code = Code(tmp_path / "code", "abc", tmp_path)
    line = words(study, study.runs()[0], code, tmp_path / "run")
    assert line[:3] == ["--resume", "--project", str(tmp_path / "code" / "brought")]  # of the study's code
    assert load_study(written(tmp_path)).projects == ()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_study(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(UserError, match="must be a mapping"):
        load_study(tmp_path / "list.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_study(tmp_path / "picture.yaml")
    with pytest.raises(UserError, match="no key quick"):
        load_study(written(tmp_path), quick=True)


def test_an_arm_given_twice_is_no_arm_lost(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text() + "  'on': [A, 1]\n")
    with pytest.raises(UserError, match="on is given twice"):
        load_study(path)
