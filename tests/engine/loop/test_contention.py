"""The warning about steps that become slow because other programs take the cores."""

import logging
from types import SimpleNamespace

import pytest
import torch

from adet_iuq.engine.loop import contention
from adet_iuq.engine.loop.contention import ContentionGuard, contention_guards

WINDOW = 4


class Clocks:
    """Time and processor time of a process, which steps move on."""

    def __init__(self) -> None:
        self.time = self.computed = 0.0

    def perf_counter(self) -> float:
        return self.time

    def process_time(self) -> float:
        return self.computed


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    result = Clocks()
    monkeypatch.setattr(contention, "time", result)
    return result


def run(guard: ContentionGuard, clocks: Clocks, windows: int, seconds: float, cores: float, data: float = 0.0) -> None:
    """Steps of so many seconds, on so many cores, after a wait for data."""
    storage = SimpleNamespace(latest=lambda: {"data_time": (data, 0)})
    guard.trainer = SimpleNamespace(storage=storage)
    for _ in range(windows * WINDOW):
        guard.before_step()
        clocks.time += seconds + data
        clocks.computed += seconds * cores
        guard.after_step()


def test_a_busy_program_is_noticed_once(clocks: Clocks, caplog: pytest.LogCaptureFixture) -> None:
    """Two threads alone use 1.9 cores; beside a busy program, spinning, 1.3 for ten times as long."""
    guard = ContentionGuard(processes=1, window=WINDOW)
    with caplog.at_level(logging.WARNING):
        run(guard, clocks, 2, seconds=0.3, cores=1.9)
        assert not caplog.records
        run(guard, clocks, 1, seconds=3.0, cores=1.3)
        assert "takes 3 s instead of 0.3 s" in caplog.text and "1.3 cores instead of 1.9" in caplog.text
        assert "OMP_NUM_THREADS=1" in caplog.text and "--resume" in caplog.text
        run(guard, clocks, 3, seconds=3.0, cores=1.3)
    assert len(caplog.records) == 1


def test_more_work_is_no_reason(clocks: Clocks, caplog: pytest.LogCaptureFixture) -> None:
    """Larger images, slow data, a step now and then, threads that merely wait a little more."""
    guard = ContentionGuard(processes=1, window=WINDOW)
    with caplog.at_level(logging.WARNING):
        run(guard, clocks, 2, seconds=0.3, cores=1.9)
        run(guard, clocks, 2, seconds=3.0, cores=1.9)
        run(guard, clocks, 2, seconds=0.3, cores=1.9, data=5.0)
        run(guard, clocks, 2, seconds=0.5, cores=1.3)
    assert not caplog.records


def test_only_where_several_threads_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert len(contention_guards("cpu")) == 1 and contention_guards("cuda") == []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert contention_guards("cpu") == []
