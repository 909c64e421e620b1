"""What the inter-scene loss takes of the computer's memory: a few chunks, however many pixels there are."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_peak_memory_does_not_grow_with_the_capacity(benchmark: ModuleType) -> None:
    for case in benchmark.CASES:
        peaks = []
        for capacity in (20_000, 100_000):
            args = benchmark.random_inputs(case, 100, capacity)
            peaks.append(benchmark.peak_bytes(partial(benchmark.chunked_step, case, *args, chunk_bytes=8 * 2**20)))
        assert peaks[1] < 1.05 * peaks[0]
        assert peaks[1] < 10 * 2**20


def test_plain_autograd_would_need_more(benchmark: ModuleType) -> None:
    """The measurement sees what it should see."""
    case = benchmark.CASES[0]
    args = benchmark.random_inputs(case, 100, 10_000)
    assert benchmark.peak_bytes(lambda: benchmark.plain_step(case, *args)) > 100 * 2**20


RESIDENT = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import benchmark_inter_loss as module
case = module.CASES[0]
module.chunked_step(case, *module.random_inputs(case, 100, 100), chunk_bytes=16 * 2**20)
inputs = module.random_inputs(case, 100, 100_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
module.chunked_step(case, *inputs, chunk_bytes=16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_resident_memory_at_100_queries_and_100k_pixels() -> None:
    """Under 200 MB beyond the inputs, as the operating system counts it."""
    command = [sys.executable, "-c", RESIDENT, str(ROOT / "tools")]
    grown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(grown) * 1024 < 200e6
