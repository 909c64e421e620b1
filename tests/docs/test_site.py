"""The documentation's site builds without a warning, and its pages need no network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.golden import REPOSITORY

pytest.importorskip("mkdocs", reason="mkdocs is not installed; pip install -e '.[test]' brings all that the site needs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loading = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+rel=\"?(?:stylesheet|icon|preconnect)[^>]+href=\"?https?:"
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    assert [str(page.relative_to(site)) for page in pages if loading.search(page.read_text())] == []


def test_no_row_has_lost_its_table(site: Path) -> None:
    # A blank line within a table makes the rows below it a paragraph of bars.
    torn = [str(page.relative_to(site)) for page in site.rglob("*.html") if re.search(r"<p>\s*\|", page.read_text())]
    assert torn == []


def test_equations_are_there_without_scripts(site: Path) -> None:
    page = (site / "method.html").read_text()
    assert page.count("<math") == page.count('class="equation"') >= 6


def test_the_reference_comes_from_docstrings(site: Path) -> None:
    page = (site / "api/iuq.html").read_text()
    for name in ("InterSceneLoss.__call__", "PixelMemory", "CropFlip", "IUQCriterion"):
        assert f'id="adet_iuq.iuq.{name}"' in page
    assert "Keeps the newest" in page  # the docstring of PixelMemory


def test_pages_from_outside_docs_are_there_and_linked(site: Path) -> None:
    page = (site / "segmenters.html").read_text()
    assert 'href="projects/Minimal/index.html"' in page
    assert 'href="../../parity/sparseinst.html"' in (site / "projects/Minimal/index.html").read_text()
