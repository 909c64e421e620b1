"""Dockerfile, workflow and citation: linted where the linter is installed, and in step with the rest."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from adet_iuq import __version__
from helpers.golden import REPOSITORY

DOCKERFILE = REPOSITORY / "Dockerfile"


def hadolint(file: Path) -> "subprocess.CompletedProcess[str]":
    """Runs the linter of this Python's environment, or the machine's own."""
    beside = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    program = beside or shutil.which("hadolint")
    if program is None:
        pytest.skip('hadolint is not installed: pip install -e ".[dev]"')
    return subprocess.run([program, str(file)], capture_output=True, text=True)


def test_the_dockerfile_has_no_faults() -> None:
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_the_linter_finds_faults(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp\n")
    done = hadolint(tmp_path / "Dockerfile")
    assert done.returncode == 1 and "DL3006" in done.stdout and "DL3003" in done.stdout


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), re.M):
        for name in line.split():
            assert (REPOSITORY / name).exists() and f"!{name}" in ignored, name


@pytest.mark.parametrize("file", ["Dockerfile", ".github/workflows/ci.yml"])
def test_torch_is_the_one_that_the_setup_installs(file: str) -> None:
    wanted = re.search(
        r"ADET_IUQ_TORCH:=(torch==\S+ torchvision==[\d.]+)", (REPOSITORY / "tools/setup_env.sh").read_text()
    )
    assert wanted is not None
    found = re.findall(r"torch==.*?torchvision==[\d.]+", (REPOSITORY / file).read_text())
    assert found and set(found) == {wanted[1]}


def test_the_workflow_calls_what_runs_everywhere() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]


def test_the_citation_names_the_paper_and_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["authors"] == [{"name": "adet_iuq developers"}]
    paper = citation["preferred-citation"]
    assert paper["title"] == "Learning Equivariant Segmentation with Instance-Unique Querying"
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Liang", "Liu"]


def test_the_changelog_has_this_version() -> None:
    assert re.search(rf"^## {re.escape(__version__)}\b", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)
