"""A study's code is a copy of one revision, whatever is committed after its start."""

import shutil
import subprocess
from pathlib import Path

import pytest

from adet_iuq.errors import UserError
from adet_iuq.studies.revision import prepare_code


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout


def commit(folder: Path, content: str) -> str:
    """Commits a package that holds `content`; returns the revision."""
    (folder / "adet_iuq").mkdir(exist_ok=True)
    (folder / "adet_iuq/__init__.py").write_text(f"CONTENT = {content!r}\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", content)
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


def test_a_study_keeps_its_revision(tmp_path: Path, origin: Path) -> None:
    first = commit(origin, "first")
    code = prepare_code(tmp_path / "out", origin, [])
    assert code.revision == first and code.folder == tmp_path / "out/code"
    commit(origin, "second")
    (origin / "adet_iuq/__init__.py").write_text("changed")
    again = prepare_code(tmp_path / "out", origin, [first])
    assert again == code and "first" in (again.folder / "adet_iuq/__init__.py").read_text()
    assert again.counterpart(origin / "adet_iuq/__init__.py") == code.folder / "adet_iuq/__init__.py"
    assert again.counterpart(tmp_path / "elsewhere.yaml") == tmp_path / "elsewhere.yaml"


def test_finished_runs_name_the_revision_on_another_machine(tmp_path: Path, origin: Path) -> None:
    first = commit(origin, "first")
    commit(origin, "second")
    (origin / "adet_iuq/__init__.py").write_text("changed")  # HEAD and working tree do not matter
    assert prepare_code(tmp_path / "out", origin, [first, first]).revision == first
    with pytest.raises(UserError, match="which this checkout cannot give"):
        prepare_code(tmp_path / "other", origin, ["0" * 40])
    assert not (tmp_path / "other/code").exists()


def test_what_has_no_revision_is_refused(tmp_path: Path, origin: Path) -> None:
    commit(origin, "first")
    (origin / "adet_iuq/__init__.py").write_text("changed")
    with pytest.raises(UserError, match=r"uncommitted changes \(adet_iuq/__init__.py\)"):
        prepare_code(tmp_path / "out", origin, [])
    assert not (tmp_path / "out/code").exists()


def test_revisions_are_never_mixed(tmp_path: Path, origin: Path) -> None:
    first, second = commit(origin, "first"), commit(origin, "second")
    with pytest.raises(UserError, match="2 revisions"):
        prepare_code(tmp_path / "out", origin, [first, second])
    prepare_code(tmp_path / "out", origin, [])
    with pytest.raises(UserError, match=f"are of revision {first}, and the code of this study is {second}"):
        prepare_code(tmp_path / "out", origin, [first])


def test_without_git_the_sources_are_the_revision(tmp_path: Path, origin: Path) -> None:
    commit(origin, "first")
    shutil.rmtree(origin / ".git")
    code = prepare_code(tmp_path / "out", origin, [])
    assert code.folder == origin and code.revision.startswith("version-")
    (origin / "adet_iuq/__init__.py").write_text("changed = 1\n")
    with pytest.raises(UserError, match="never mixes revisions"):
        prepare_code(tmp_path / "out", origin, [code.revision])


def test_code_that_python_would_not_import_is_refused(tmp_path: Path, origin: Path) -> None:
    (origin / "readme").write_text("no package here")
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "none")
    with pytest.raises(UserError, match="The runs would import"):
        prepare_code(tmp_path / "out", origin, [])
