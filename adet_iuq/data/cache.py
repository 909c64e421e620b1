"""The folder for everything that can be made again: rendered scenes and verdicts of the checker."""

import os
from pathlib import Path


def cache_folder(root: str = "") -> Path:
    """`root`, else `$ADET_IUQ_CACHE`, else `~/.cache/adet_iuq`; it need not exist yet."""
    return Path(root or os.environ.get("ADET_IUQ_CACHE") or "~/.cache/adet_iuq").expanduser().absolute()


def folder_time(path: str) -> int:
    """When something was last added to a folder or deleted from it, in nanoseconds; -1 if there is no such folder."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def file_identity(path: str) -> tuple[str, int, int]:
    """Absolute path, modification time in nanoseconds and size in bytes: changes when the file does."""
    status = os.stat(path)
    return os.path.abspath(path), status.st_mtime_ns, status.st_size
