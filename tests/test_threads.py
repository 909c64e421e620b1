"""Programs that train let waiting threads sleep, before torch loads OpenMP, and leave alone what the user has set."""

import os
import subprocess
import sys
from pathlib import Path

from adet_iuq.threads import WAIT_VARIABLES, wait_asleep

import pytest
import torch

from helpers.golden import REPOSITORY

GOMP = Path(torch.__file__).parent / "lib" / "libgomp.so.1"


def test_the_user_goes_first() -> None:
    environment = {"HOME": "/home"}
    wait_asleep(environment)
    assert environment == {"HOME": "/home", "OMP_WAIT_POLICY": "passive"}
    for name in WAIT_VARIABLES:
        chosen = {name: "17"}
        wait_asleep(chosen)
        assert chosen == {name: "17"}


@pytest.mark.skipif(not GOMP.is_file(), reason="torch uses another OpenMP here")
@pytest.mark.parametrize("own,policy", [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_openmp_hears_of_it_in_time(own: dict[str, str], policy: str) -> None:
    """OpenMP itself says which policy it took: the variable must be set before the first import of torch."""
    kept = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    environment = {**kept, "OMP_DISPLAY_ENV": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **own}
    command = [sys.executable, "tools/train_net.py", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment)
    assert f"OMP_WAIT_POLICY = '{policy}'" in found.stderr


def test_both_entries_import_it_before_anything_that_imports_torch() -> None:
    for file in ("tools/train_net.py", "adet_iuq/commands/console.py"):
        text = (REPOSITORY / file).read_text()
        assert "import adet_iuq.threads" in text
    train_net = (REPOSITORY / "tools/train_net.py").read_text()
    assert train_net.index("import adet_iuq.threads") < train_net.index("adet_iuq.commands.train import")
