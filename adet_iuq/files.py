"""Writes files so that nobody ever sees half of one: the only atomic writer of the package."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from adet_iuq.errors import UserError

_partial_files: set[str] = set()  # the files that this process is writing


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, flushes it to the disk, and renames it to `path`.

    Whatever happens, `path` holds either the old content or the new one.

    Args:
        path: the file to replace.
        write: the function that writes the content to the open file it is given.

    Raises:
        UserError: the file cannot be written, for example because the disk is full.
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        _partial_files.add(partial)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())  # mkstemp makes its files private
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if partial is not None:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        cause = _disk_error(error)
        if cause is not None:
            raise UserError(
                f"{path} cannot be written: {cause.strerror or cause}. What was there before is untouched. Free some space "
                "on that disk, then go on with --resume."
            ) from error
        raise
    finally:
        _partial_files.discard(partial or "")


def remove_partial_files() -> None:
    """Removes the files that `replace_file` is writing; for a process that is about to end without unwinding."""
    for partial in list(_partial_files):
        with contextlib.suppress(OSError):
            os.unlink(partial)


def _disk_error(error: BaseException) -> OSError | None:
    """The operating system's error behind another error: torch.save's clean-up hides it behind a RuntimeError."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__context__
    return behind


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Flushes a rename to the disk. Some file systems do not offer it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
