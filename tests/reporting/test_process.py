import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adet_iuq.reporting import process
from adet_iuq.reporting.process import ReportProcess

WRITES = """
import os, sys, pathlib, time
folder = pathlib.Path(sys.argv[-1])
facts = [os.nice(0), os.environ["CUDA_VISIBLE_DEVICES"], "RANK" in os.environ, sys.argv[1:-1]]
(folder / "report.html").write_text(repr(facts))
"""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a few lines of Python in the place of the report's program."""

    def put(code: str) -> None:
        monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", code))

    return put


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.message for one in caplog.records if one.levelno >= logging.WARNING]


def test_it_is_written_without_gpu_and_rank(
    tmp_path: Path, command: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    command(WRITES)
    report = ReportProcess(str(tmp_path))
    report.start(beside=True)
    assert report.finish()
    assert (tmp_path / "report.html").read_text() == repr([os.nice(0), "", False, ["--beside"]])


def test_lowest_priority_in_a_group_and_not_a_session_of_its_own(
    tmp_path: Path, command: Callable[[str], None]
) -> None:
    command(
        "import os; from adet_iuq.reporting.process import be_modest, stand_alone; be_modest(); stand_alone()\n"
        f"assert os.nice(0) == 19 and os.getpgid(0) == os.getpid() and os.getsid(0) == {os.getsid(0)}\n"
        "assert not hasattr(os, 'SCHED_IDLE') or os.sched_getscheduler(0) == os.SCHED_IDLE"
    )
    report = ReportProcess(str(tmp_path))
    report.start(beside=True)
    assert report.finish()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; print('a warning', file=sys.stderr); sys.exit('Error: report.html cannot be written: disk full.')",
         "report.html cannot be written: disk full."),
        ("raise MemoryError", "MemoryError"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line(
    tmp_path: Path, command: Callable[[str], None], caplog: pytest.LogCaptureFixture, code: str, why: str
) -> None:
    command(code)
    report = ReportProcess(str(tmp_path))
    report.start(beside=True)
    while not warnings(caplog):
        report.is_writing()  # as after every step
    assert not report.is_writing()
    (line,) = warnings(caplog)
    assert line.startswith(f"No report: {why}") and f"tools/report.py {tmp_path}" in line
    assert not report.finish()


def test_a_process_that_cannot_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "COMMAND", (str(tmp_path / "no_python"),))
    report = ReportProcess(str(tmp_path))
    report.start(beside=True)
    assert not report.finish() and len(warnings(caplog)) == 1


def test_the_end_does_not_wait_forever(
    tmp_path: Path, command: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    command("import time, sys, pathlib; time.sleep(1); pathlib.Path(sys.argv[-1], 'report.html').touch()")
    report = ReportProcess(str(tmp_path))
    report.start(beside=False)
    begin = time.monotonic()
    assert not report.finish(0.1) and time.monotonic() - begin < 1
    assert "takes longer" in warnings(caplog)[0]
    while not (tmp_path / "report.html").exists():  # it goes on by itself
        assert time.monotonic() - begin < 60
        time.sleep(0.05)


def test_a_new_report_replaces_one_that_is_being_written(
    tmp_path: Path, command: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    command("import time; time.sleep(600)")
    report = ReportProcess(str(tmp_path))
    report.start(beside=True)
    first = report._process
    command(WRITES)
    report.start(beside=True)
    assert first is not None and first.returncode == -15
    assert report.finish() and not warnings(caplog)


def test_ended_in_good_order_it_leaves_no_half_file(tmp_path: Path, command: Callable[[str], None]) -> None:
    command(
        "import sys, time; from pathlib import Path\n"
        "from adet_iuq.files import replace_file; from adet_iuq.reporting.process import stand_alone\n"
        "stand_alone(); folder = Path(sys.argv[-1])\n"
        "def write(file): file.write(b'half'); (folder / 'began').touch(); time.sleep(600)\n"
        "replace_file(folder / 'report.html', write)"
    )
    report = ReportProcess(str(tmp_path))
    report.start(beside=True)
    while not (tmp_path / "began").exists():
        time.sleep(0.05)
    report.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["began"]
