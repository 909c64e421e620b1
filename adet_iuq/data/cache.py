"""The folder for everything that can be made again: rendered scenes, mosaics, and verdicts of the checker."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from iopath.common.file_io import file_lock

from adet_iuq.errors import UserError


def cache_folder(root: str = "") -> Path:
    """The cache folder: `root`, else `$ADET_IUQ_CACHE`, else `~/.cache/adet_iuq`. It need not exist yet."""
    return Path(root or os.environ.get("ADET_IUQ_CACHE") or "~/.cache/adet_iuq").expanduser().absolute()


def folder_time(path: str) -> int:
    """The time when a folder's entries last changed, in nanoseconds; -1 if there is no such folder."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def folders_unchanged(times: Mapping[str, int]) -> bool:
    """Whether all folders still have the given `folder_time`."""
    return all(folder_time(folder) == time for folder, time in times.items())


def file_identity(path: str) -> tuple[str, int, int]:
    """Absolute path, modification time in nanoseconds and size in bytes, which change when the file does."""
    status = os.stat(path)
    return os.path.abspath(path), status.st_mtime_ns, status.st_size


def make_folder_once(
    folder: Path,
    fill: Callable[[Path], None],
    *,
    is_whole: Callable[[Path], bool] = Path.is_dir,
    remedy: str = "the environment variable ADET_IUQ_CACHE",
) -> None:
    """Lets `fill` make the files of `folder` unless they exist. Several processes may call it at once.

    The files are made in a temporary folder, which is renamed when it is complete, so that nobody ever sees a part.

    Args:
        folder: the folder to make.
        fill: the function that writes the files to the folder it is given.
        is_whole: whether all files are in a folder; somebody may have deleted some of them by hand.
        remedy: the setting that names another folder, for the message.

    Raises:
        UserError: the folder cannot be written.
    """
    if is_whole(folder):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(folder)):
            if is_whole(folder):
                return
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}"))
            try:
                fill(partial)
                partial.chmod(0o755)  # mkdtemp makes its folders private
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}. Name another folder with {remedy}."
        ) from error
