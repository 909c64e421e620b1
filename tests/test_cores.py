"""How many cores a process may use: its affinity, and its container's quota."""

from pathlib import Path

import pytest

from adet_iuq import cores
from adet_iuq.cores import available_cores


@pytest.mark.parametrize("text,expected", [("150000 100000\n", 2), ("max 100000\n", 6), ("10000 100000\n", 1)])
def test_a_containers_quota_counts(text: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    monkeypatch.setattr(cores, "_QUOTA", quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(6)), raising=False)
    monkeypatch.setattr(cores.sys, "platform", "linux")
    assert available_cores() == expected
