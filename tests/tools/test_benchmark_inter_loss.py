"""The benchmark runs and prints a line for each query, capacity and way of computing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_prints_time_and_peak_memory() -> None:
    command = [sys.executable, "tools/benchmark_inter_loss.py", "--queries", "10", "--repeats", "1"]
    command += ["--capacities", "500", "4000", "--max-plain-gb", "0.002", "--chunk-mb", "0.1", "1"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    lines = [line.split("  ") for line in output.splitlines()[2:]]
    assert len(lines) == 2 * 2 * 3
    assert sum("dynamic filter" in line for line in output.splitlines()) == 6
    assert "~" in output  # the plain version of the larger memory was only estimated
