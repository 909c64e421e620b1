"""Ctrl-C in a tool that has no training to save, and warnings that nobody who runs a tool can act on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.golden import REPOSITORY

TOOLS = sorted(path for path in (REPOSITORY / "tools").rglob("*.py") if "__main__" in path.read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_one_line_and_130(tmp_path: Path) -> None:
    code = "import time, pathlib, sys, adet_iuq.program; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "begun")], text=True, stderr=subprocess.PIPE, cwd=REPOSITORY,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "\nStopped by Ctrl-C.\n"


def test_warnings_of_imported_packages_are_not_shown() -> None:
    """detectron2 and fvcore call torch.jit.script when they are imported. Other warnings stay."""
    code = "import adet_iuq.program, detectron2.modeling, warnings; warnings.warn('mine', FutureWarning)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert "torch.jit.script" not in done.stderr and "FutureWarning: mine" in done.stderr


def test_other_errors_keep_their_traceback() -> None:
    code = "import adet_iuq.program; 1 / 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_every_tool_has_it(tool: Path) -> None:
    """But the one that installs, which runs before this package can be imported."""
    assert tool.stem == "install_detectron2" or "import adet_iuq.program" in tool.read_text()
