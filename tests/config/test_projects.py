"""Projects are imported once, from folders or by name, and every way in which that fails is told."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adet_iuq.config import import_project, import_projects, load_config
from adet_iuq.errors import UserError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a project of a name; its text may be given."""

    def write(name: str, text: str | None = None, parent: str = "projects") -> Path:
        folder = tmp_path / parent / name
        folder.mkdir(parents=True)
        (folder / "keys.py").write_text(f"def add_config(cfg):\n    cfg.{name.upper()} = 1\n")
        (folder / "__init__.py").write_text("from .keys import add_config\n" if text is None else text)
        return folder

    return write


def test_folders_bring_their_keys_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, other = make("one"), make("two"), make("one", "LOADED = []\n", parent="others")
    functions = import_projects([str(one), str(two), f"{one}/", str(other)])
    assert len(functions) == 2
    cfg = load_config(None, ["ONE", "3"], functions).cfg
    assert (cfg.ONE, cfg.TWO) == (3, 1)
    monkeypatch.chdir(one.parent)
    assert import_project("one") is import_project(str(one)) is not import_project(str(other))


def test_a_module_and_its_folder_are_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("module_project_for_tests")
    monkeypatch.syspath_prepend(str(folder.parent))
    module = import_project(folder.name)
    assert module.__name__ == folder.name and import_project(str(folder)) is module
    assert import_project(f"{folder.name}.keys") is sys.modules[f"{folder.name}.keys"]


@pytest.mark.parametrize(
    "text,words",
    [
        ("import torch\n\nraise ValueError('out of milk')\n", r"ValueError: out of milk \(.*__init__\.py, line 3\)"),
        ("from .keys import nothing\n", r"ImportError: cannot import name 'nothing'.*__init__\.py, line 1"),
        ("import no_such_module\n", r"ModuleNotFoundError: .*no_such_module.*__init__\.py, line 1"),
        ("x = (\n", r"SyntaxError: .*__init__\.py, line 1"),
        ("import torch\ntorch.zeros(-1)\n", r"RuntimeError: .*__init__\.py, line 2"),
    ],
)
def test_what_an_import_raises_is_told_with_its_place(
    make: Make, text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("broken_project_for_tests", text)
    monkeypatch.syspath_prepend(str(folder.parent))
    for place in (str(folder), folder.name):
        for _ in range(2):  # what failed is not kept
            with pytest.raises(UserError, match=f"--project {place} cannot be imported: {words}"):
                import_project(place)


def test_places_that_hold_no_project(tmp_path: Path, make: Make) -> None:
    for place, words in {
        f"{tmp_path}/nowhere": "there is no such folder; the working folder is",
        "nowhere_at_all": "neither such a folder .* nor a Python module nowhere_at_all",
        "nowhere_at_all.inside": "nor a Python module nowhere_at_all",
        str(tmp_path): "no __init__.py",
        f"{make('file')}/keys.py": "is a file; name its folder",
    }.items():
        with pytest.raises(UserError, match=words):
            import_project(place)


def test_an_add_config_that_is_no_function(make: Make) -> None:
    assert import_projects([str(make("none", "x = 1\n"))]) == ()
    with pytest.raises(UserError, match=r"project_wrong_.*: its add_config is 'keys'"):
        import_projects([str(make("wrong", "add_config = 'keys'\n"))])
