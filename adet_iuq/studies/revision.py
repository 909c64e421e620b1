"""The code of a study: a copy of one revision that all its runs use, whatever is committed meanwhile."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adet_iuq import __version__
from adet_iuq.errors import UserError

REVISION_FILE = "REVISION"


@dataclass(frozen=True)
class Code:
    """The code that the runs use.

    Attributes:
        folder: the folder that holds adet_iuq and tools.
        revision: the commit's full name; outside of a git checkout the version and a digest of the sources.
        origin: the folder that the code was copied from.
    """

    folder: Path
    revision: str
    origin: Path

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """An environment whose Python imports this code and no other."""
        paths = [str(self.folder), *filter(None, [environment.get("PYTHONPATH")])]
        return {**environment, "PYTHONPATH": os.pathsep.join(paths)}

    def counterpart(self, path: Path) -> Path:
        """The copy of a file of the origin; any other file stays where it is."""
        path = path.resolve()
        return self.folder / path.relative_to(self.origin) if path.is_relative_to(self.origin) else path


def prepare_code(output: Path, origin: Path, recorded: Iterable[str]) -> Code:
    """The code of the study in `output`: the copy that is there, or a new one.

    A new copy has the revision of the study's finished runs, which may come from another machine, or else that of HEAD.

    Args:
        output: the folder of the study.
        origin: the folder of the running code; it is copied if it is a git checkout, otherwise it is used where it is.
        recorded: the revisions of finished runs.

    Raises:
        UserError: finished runs have several revisions, or another one than the copy; there are uncommitted changes;
            git does not know the revision; or Python would import other code.
    """
    origin = origin.resolve()
    wanted = single_revision(recorded)
    copy = output / "code"
    if (copy / REVISION_FILE).is_file():
        code = Code(copy.resolve(), (copy / REVISION_FILE).read_text().strip(), origin)
    elif is_checkout(origin):
        revision = wanted or _clean_head(origin)
        _extract(origin, revision, copy)
        code = Code(copy.resolve(), revision, origin)
    else:
        code = Code(origin, f"version-{__version__}-{_digest(origin)}", origin)
    if wanted not in (None, code.revision):
        raise UserError(
            f"The finished runs in {output} are of revision {wanted}, and the code of this study is {code.revision}. A "
            "table never mixes revisions: choose another folder with --output, or move its folders runs and work away."
        )
    _check_import(code)
    return code


def single_revision(revisions: Iterable[str]) -> str | None:
    """The one revision that all runs share; None if there are no runs.

    Raises:
        UserError: there are several.
    """
    different = sorted(set(revisions))
    if len(different) > 1:
        raise UserError(
            f"The finished runs are of {len(different)} revisions of the code, {', '.join(different)}. A table never mixes "
            "revisions: give each a folder of its own."
        )
    return different[0] if different else None


def is_checkout(folder: Path) -> bool:
    """Whether `folder` is the top of a git checkout, and not just somewhere inside another project's."""
    try:
        top = subprocess.run(["git", "-C", str(folder), "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    except FileNotFoundError:
        return False
    return top.returncode == 0 and Path(top.stdout.strip()).resolve() == folder.resolve()


def _git(folder: Path, *words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True)
    if done.returncode:
        raise UserError(f"git {' '.join(words)} failed in {folder}: {done.stderr.decode().strip()}")
    return done.stdout


def _clean_head(origin: Path) -> str:
    changed = _git(origin, "status", "--porcelain", "--untracked-files=no").decode().splitlines()
    if changed:
        raise UserError(
            f"{origin} has uncommitted changes ({', '.join(line[3:] for line in changed[:5])}), which no revision names. "
            "Commit them (or git stash), then start the study."
        )
    return _git(origin, "rev-parse", "HEAD").decode().strip()


def _extract(origin: Path, revision: str, copy: Path) -> None:
    """Writes the files of a revision to `copy`, all or nothing."""
    try:
        archive = _git(origin, "archive", "--format=zip", revision)  # tar wants a filter, which Python has since 3.11.4
    except UserError as error:
        raise UserError(
            f"The study's runs are of revision {revision}, which this checkout cannot give: {error} Fetch it (git fetch), "
            "or choose another folder with --output."
        ) from error
    copy.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=copy.parent, prefix=".code."))
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            files.extractall(partial)
        (partial / REVISION_FILE).write_text(revision + "\n")
        partial.chmod(0o777 & ~0o022)  # mkdtemp makes its folders private
        partial.rename(copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _digest(folder: Path) -> str:
    """A digest of all code that a training may read: sources and configs."""
    digest = hashlib.sha256()
    sources = [path for place in ("adet_iuq", "tools", "projects") for path in folder.glob(f"{place}/**/*.py")]
    configs = [path for place in ("configs", "projects") for path in folder.glob(f"{place}/**/*.yaml")]
    for path in sorted([*sources, *configs]):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _check_import(code: Code) -> None:
    """Refuses an installed package that comes first on the path: the runs would have another revision than their records."""
    command = [sys.executable, "-c", "import adet_iuq; print(adet_iuq.__file__)"]
    found = subprocess.run(
        command, env=code.environment(os.environ), cwd="/", capture_output=True, text=True
    ).stdout.strip()
    if Path(found).resolve().parent != (code.folder / "adet_iuq").resolve():
        raise UserError(f"The runs would import {found or 'no adet_iuq'} instead of the study's code in {code.folder}.")
