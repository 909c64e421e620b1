"""The folder for everything that can be made again: rendered scenes, mosaics and verdicts of the checker."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from iopath.common.file_io import file_lock

from adet_iuq.errors import UserError


def cache_folder(root: str = "") -> Path:
    """`root`, else `$ADET_IUQ_CACHE`, else `~/.cache/adet_iuq`; it need not exist yet."""
    return Path(root or os.environ.get("ADET_IUQ_CACHE") or "~/.cache/adet_iuq").expanduser().absolute()


def folder_time(path: str) -> int:
    """When something was last added to a folder or deleted from it, in nanoseconds; -1 if there is no such folder."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def folders_unchanged(times: Mapping[str, int]) -> bool:
    """Whether all folders, by path, still have the `folder_time` that they had."""
    return all(folder_time(folder) == time for folder, time in times.items())


def file_identity(path: str) -> tuple[str, int, int]:
    """Absolute path, modification time in nanoseconds and size in bytes: changes when the file does."""
    status = os.stat(path)
    return os.path.abspath(path), status.st_mtime_ns, status.st_size


def make_folder_once(
    folder: Path,
    fill: Callable[[Path], None],
    *,
    is_whole: Callable[[Path], bool] = Path.is_dir,
    remedy: str = "the environment variable ADET_IUQ_CACHE",
) -> None:
    """Lets `fill` make the files of `folder`, unless they are there. Safe when several processes start at once.

    It fills a folder beside `folder`, which takes the name when all is there: nobody ever sees a part.

    Args:
        folder: to make.
        fill: writes the files to the folder that it is given.
        is_whole: whether they are there; somebody may have deleted some of them by hand.
        remedy: what names another folder, for the message.

    Raises:
        UserError: it cannot be written.
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
                partial.chmod(0o755)  # mkdtemp's folders are private
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}. Name another folder with {remedy}."
        ) from error
