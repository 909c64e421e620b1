"""Importing this module first makes a script a program for people. Only programs should import it.

Ctrl-C ends the program with one line and exit code 130, even during the imports that follow. For that the hook that prints
tracebacks is replaced. A training handles Ctrl-C by itself once it is launched (engine/launching/interruption.py): it saves
before it ends.

A warning that only the authors of an imported package can act on is not shown.
"""

import contextlib
import multiprocessing
import os
import sys
import warnings
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
# fvcore and detectron2 call torch.jit.script when they are imported, and torch 2.14 warns of each call.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
