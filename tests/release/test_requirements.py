"""Every distribution that the code imports is declared in pyproject.toml, and every one declared is imported."""

import ast
import functools
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from helpers.golden import REPOSITORY

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml by itself")

# What is imported under another name than that of its distribution.
DISTRIBUTIONS = {"cv2": "opencv-python", "PIL": "pillow", "yaml": "pyyaml", "mkdocs": "mkdocs-material"}
# What a feature imports when it is asked for, and the extra that brings it.
OPTIONAL = {
    **{"gradio": "demo", "trackers": "track", "lvis": "lvis", "submitit": "submitit"},
    **{"faster-coco-eval": "fasteval", "hotcoco": "fasteval"},
    **{"mkdocs-material": "test", "latex2mathml": "test"},  # the documentation's site
}
BY_OTHER_MEANS = {"detectron2", "_typeshed"}  # tools/install_detectron2.py; a part of every type checker
NEVER_IMPORTED = {"tensorboard"}  # detectron2's writer of event files needs it, through torch.utils.tensorboard
# The scripts of tools/ and datasets/ import each other by their bare names.
SCRIPTS = {file.stem for folder in ("tools", "datasets") for file in REPOSITORY.glob(f"{folder}/**/*.py")}
OWN = {"adet_iuq", "projects", "helpers", "gpu_check", *SCRIPTS}  # gpu_check: the folder below tools


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return found


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: Iterable[str]) -> set[str]:
    """Distributions that requirements such as "torch>=2.1" ask for."""
    found = [re.match(r"[\w.-]+", requirement) for requirement in requirements]
    return {normal(match[0]) for match in found if match is not None}


@functools.cache
def imported(file: Path) -> frozenset[str]:
    """The packages that a file imports, anywhere in it, other than Python's own and this project's."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.append(node.module)
    return frozenset(module.split(".")[0] for module in modules) - sys.stdlib_module_names - OWN


def undeclared(files: Iterable[Path], declared: set[str]) -> list[str]:
    """What is imported and not declared, as "package, file"."""
    return sorted(
        f"{package}, {file.name}"
        for file in files
        for package in imported(file)
        if package not in BY_OTHER_MEANS and normal(DISTRIBUTIONS.get(package, package)) not in declared
    )


def sources() -> list[Path]:
    found = [file for folder in ("adet_iuq", "tools", "datasets") for file in REPOSITORY.glob(f"{folder}/**/*.py")]
    return [*found, *REPOSITORY.glob("projects/*/*.py")]


def test_every_import_is_declared() -> None:
    required = names(project()["dependencies"])
    assert undeclared(sources(), required | OPTIONAL.keys()) == []
    for package, extra in OPTIONAL.items():
        assert package in names(project()["optional-dependencies"][extra])
        assert package not in required


def test_every_requirement_is_imported() -> None:
    used = {normal(DISTRIBUTIONS.get(package, package)) for file in sources() for package in imported(file)}
    assert names(project()["dependencies"]) - used == NEVER_IMPORTED


def test_the_tests_need_what_their_extra_brings() -> None:
    extras = project()["optional-dependencies"]
    declared = names([*project()["dependencies"], *extras["test"], *extras["demo"], *extras["track"]])
    files = [*REPOSITORY.glob("tests/**/*.py"), *REPOSITORY.glob("projects/*/tests/**/*.py")]
    assert undeclared(files, declared) == []


@pytest.mark.parametrize("line", ["import attrs", "from attrs.x import y", "def f():\n    import attrs, os"])
def test_an_import_that_is_not_declared_is_found(tmp_path: Path, line: str) -> None:
    file = tmp_path / "one.py"
    file.write_text(f"import os, ablate\nfrom . import three\nimport cv2\n{line}\n")
    assert undeclared([file], names(["opencv_python>=4"])) == ["attrs, one.py"]
