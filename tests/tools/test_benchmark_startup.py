"""The benchmark of starts runs on a small file, and its later start reads what the first one kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_has_all_starts(tmp_path: Path) -> None:
    command = [sys.executable, "tools/benchmark_startup.py", "--scale", "0.001", "--folder", str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    rows = [line[:28].strip() for line in done.stdout.splitlines()[2:]]
    twice = [
        "later start, two, rank 0",
        "later start, two, rank 1",
        "first start, two, rank 0",
        "first start, two, rank 1",
    ]
    assert rows == ["detectron2's load", "first start", "later start", *twice]
    assert all(float(cell) >= 0 for line in done.stdout.splitlines()[2:] for cell in line[28:].split())
    kept = list((tmp_path / "data/cache/annotations").glob("*/annotations.json"))
    assert len(kept) == 1 and "fatal" not in done.stderr.lower()
    assert len(list((tmp_path / "data/images").iterdir())) == 118
