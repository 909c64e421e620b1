"""Importing this module makes Ctrl-C end a program with one line and exit code 130, even during the imports that follow.

Only programs should import it, because it replaces the hook that prints tracebacks. A training handles Ctrl-C by itself
once it is launched (engine/launching/interruption.py): it saves before it ends.
"""

import contextlib
import multiprocessing
import os
import sys
from types import TracebackType

from adet_iuq.errors import EXIT_CTRL_C

_others = sys.excepthook


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _others(kind, error, traceback)
        return
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print("\nStopped by Ctrl-C.", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(EXIT_CTRL_C)  # if Python itself ended, the shell would see a program killed by SIGINT


sys.excepthook = _end
