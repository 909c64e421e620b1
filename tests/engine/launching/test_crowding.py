"""What a run says at the start if other programs compute beside it, and how many threads it takes."""

import argparse
from pathlib import Path

import pytest
import torch

from adet_iuq.engine.launching import crowding, launch
from adet_iuq.engine.launching.crowding import busy_cores, crowding_advice, limit_threads


@pytest.fixture
def no_thread_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in crowding.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Torch's number of threads, as the last of a list, which really stays as it is."""
    found = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: found[-1])
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    return found


@pytest.mark.parametrize(
    "busy,threads,processes,words",
    [
        (0.0, 2, 1, ""),
        (0.4, 2, 1, ""),  # somebody who reads mail
        (1.0, 1, 1, ""),  # one thread has nobody to wait for
        (1.0, 2, 1, "OMP_NUM_THREADS=1 and DATALOADER.NUM_WORKERS 0"),
        (3.0, 2, 1, "OMP_NUM_THREADS=1 and DATALOADER.NUM_WORKERS 0"),
    ],
)
def test_advice_on_two_cores(busy: float, threads: int, processes: int, words: str) -> None:
    advice = crowding_advice(busy, 2, 2, threads, processes)
    assert words in advice and bool(advice) == bool(words)


def test_advice_on_more_cores_names_what_fits() -> None:
    advice = crowding_advice(3.1, 16, 16, 16, 1)
    assert "use 3.1 of 16 cores" in advice and "OMP_NUM_THREADS=13." in advice
    assert "2 processes of 8 threads" in crowding_advice(8, 16, 16, 8, 2)
    assert "OMP_NUM_THREADS=4." in crowding_advice(8, 16, 16, 8, 2)


def test_a_quota_is_crowded_only_if_the_whole_machine_is() -> None:
    """Programs of other containers use ten cores of 64, of which this one may use four at once."""
    assert crowding_advice(10.0, 64, 4, 4, 1) == ""
    assert "use 62.0 of 64 cores" in crowding_advice(62.0, 64, 4, 4, 1)


def test_busy_cores_from_two_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 ticks of the two visible cores 70 went to programs, 30 to such as make way, and 10 to the system."""
    file = tmp_path / "stat"
    before = "cpu  9 9 9 9 0 0 0 0\ncpu0 9 9 9 9 0 0 0 0\ncpu1 10 10 10 70 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0\nintr 7"
    later = "cpu  99 9 9 9 0 0 0 0\ncpu0 99 9 9 9 0 0 0 0\ncpu1 60 20 10 110 0 0 0 0\ncpu2 20 20 10 50 0 0 0 0"
    file.write_text(before)
    monkeypatch.setattr(crowding, "_STATISTICS", file)
    monkeypatch.setattr(crowding, "visible_cores", lambda: {1, 2})
    monkeypatch.setattr(crowding.time, "sleep", lambda _seconds: file.write_text(later))
    assert busy_cores() == pytest.approx(2 * 80 / 200)


def test_where_cores_are_not_listed_one_by_one_their_sum_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stat"
    file.write_text("cpu  1000 500 200 9000 7 0 3 1 0 0\n")
    monkeypatch.setattr(crowding, "_STATISTICS", file)
    monkeypatch.setattr(crowding, "visible_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(
        crowding.time, "sleep", lambda _seconds: file.write_text("cpu  1100 560 220 9220 7 0 3 1 0 0\n")
    )
    assert busy_cores() == pytest.approx(4 * 120 / 400)


def test_without_statistics_the_load_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowding, "_STATISTICS", tmp_path / "missing")
    monkeypatch.setattr("os.getloadavg", lambda: (1.5, 0.0, 0.0))
    assert busy_cores() == 1.5


def test_processes_share_the_cores_unless_the_user_says_otherwise(
    threads: list[int], no_thread_variables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowding, "available_cores", lambda: 4)
    limit_threads(1)
    assert threads[-1] == 4
    limit_threads(8)
    assert threads[-1] == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.append(3)
    limit_threads(8)
    assert threads[-1] == 3


def test_the_launcher_notes_it_for_the_log(
    threads: list[int], no_thread_variables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "available_cores", lambda: 2)
    monkeypatch.setattr(launch, "visible_cores", lambda: {0, 1})
    monkeypatch.setattr(crowding, "available_cores", lambda: 2)
    monkeypatch.setattr(launch, "busy_cores", lambda: 1.0)
    monkeypatch.setattr(launch, "uses_cuda", lambda _args: False)
    seen: list[str] = []

    def main(args: argparse.Namespace) -> None:
        seen.append(args.crowding)

    launch.launch(main, launch.argument_parser().parse_args([]))
    monkeypatch.setattr(launch, "busy_cores", lambda: 0.0)
    launch.launch(main, launch.argument_parser().parse_args([]))
    assert "OMP_NUM_THREADS=1" in seen[0] and seen[1] == ""
