"""The scaling benchmark prints a row for each number of processes and capacity, and draws them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_rows_and_plot(tmp_path: Path) -> None:
    command = [sys.executable, "tools/benchmark_scaling.py", "--config-file", "configs/CondInst/R18_overfit_iuq.yaml"]
    command += ["--processes", "1", "2", "--capacities", "0", "1000", "--size", "64x64", "--iters", "1"]
    command += ["--instances", "2", "--plot", str(tmp_path / "plots" / "scaling.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()[2:6]]
    assert [row[:2] for row in table] == [["1", "0"], ["1", "1000"], ["2", "0"], ["2", "1000"]]
    assert all(float(step) > 0 and float(sync) > 0 for _, _, step, sync, _ in table)
    # 8 channels, two coordinates and an id: 48 bytes a pixel on every process.
    assert [float(row[4]) for row in table] == [0.0, round(48_000 / 2**20, 1)] * 2
    assert (tmp_path / "plots" / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_segmenter_without_a_memory_is_refused() -> None:
    command = [sys.executable, "tools/benchmark_scaling.py", "--config-file", "configs/CondInst/R18_overfit.yaml"]
    done = subprocess.run([*command, "--processes", "1"], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2 and "CondInst has no memory" in done.stderr
