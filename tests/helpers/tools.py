"""The programs of tools/, as a user starts them."""

import os
import subprocess
import sys

from helpers.golden import REPOSITORY


def run_tool(name: str, *words: str) -> str:
    """What tools/NAME.py prints; fails unless it ends well."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "tools" / f"{name}.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
