"""The check on a GPU: its stages run at tiny sizes on the CPU, and one that hangs or fails costs only itself."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu_check import __main__ as command
from gpu_check.report import markdown, write_report
from gpu_check.running import Result, Stage, run_stages
from gpu_check.table3 import table

from adet_iuq.studies import load_study
from adet_iuq.studies.record import Record, Usage
from helpers.golden import REPOSITORY

FAKE = {
    "fine": 'yield {"ok": True, "ms": 1.5, "device": settings.device, "dry": settings.dry}',
    "hangs": 'yield {"ms": 2}\n    time.sleep(60)\n    yield {"ms": 3}',
    "crashes": 'yield {"ms": 4}\n    raise ValueError("out of memory")',
    "wrong": 'yield {"ok": True}\n    yield {"ok": False}',
}


def fake_stages(folder: Path, seconds: float = 30.0) -> list[Stage]:
    for name, body in FAKE.items():
        (folder / f"fake_{name}.py").write_text(f"import time\n\n\ndef rows(settings):\n    {body}\n")
    return [Stage(name, f"the stage that {name}", seconds, f"fake_{name}") for name in FAKE]


@pytest.fixture()
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(REPOSITORY / "tools")]))
    return fake_stages(tmp_path)


def test_a_stage_that_hangs_or_fails_costs_only_itself(stages: list[Stage], tmp_path: Path) -> None:
    stages[1] = Stage("hangs", "", 5.0, "fake_hangs")
    fine, hangs, crashes, wrong = run_stages(stages, "cpu", True, tmp_path, 200)
    assert (fine.outcome, fine.rows) == ("ok", [{"ok": True, "ms": 1.5, "device": "cpu", "dry": True}])
    assert (hangs.outcome, hangs.rows) == ("stopped after 5 s", [{"ms": 2}]) and hangs.seconds < 20
    assert (crashes.outcome, crashes.rows) == ("failed with exit code 1", [{"ms": 4}])
    assert crashes.log[-1] == "ValueError: out of memory" and not fine.log
    assert wrong.outcome == "1 of 2 rows are not as they must be"


def test_what_a_stage_has_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(REPOSITORY / "tools")]))
    body = 'child = subprocess.Popen(["sleep", "60"])\n    yield {"pid": child.pid}\n    child.wait()'
    (tmp_path / "fake.py").write_text(f"import subprocess\n\n\ndef rows(settings):\n    {body}\n")
    (result,) = run_stages([Stage("starts", "", 3.0, "fake")], "cpu", True, tmp_path, 100)
    pid = result.rows[0]["pid"]
    for _ in range(50):  # it was told to end, and does so as soon as it gets a core
        if has_ended(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"Process {pid} goes on.")


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or only what is left of one until its parent looks at it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_without_a_gpu_it_says_so_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.main(["nccl", "--output", str(tmp_path / "out")]) == 2
    assert "finds no GPU" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_pack_does_not_replace_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    words = ["bash", str(REPOSITORY / "tools/gpu_check_pack.sh"), str(tmp_path)]
    done = subprocess.run(words, env={**os.environ, "PYTHON": "false"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "holds other things" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_no_stage_is_started_when_the_time_is_up(stages: list[Stage], tmp_path: Path) -> None:
    results = list(run_stages(stages[:2], "cpu", True, tmp_path, 0.5))
    assert [result.outcome for result in results] == ["not started: no time was left"] * 2


def test_the_limits_together_are_five_minutes() -> None:
    seconds = [stage.seconds for stage in command.STAGES]
    assert max(seconds) <= 90 and sum(seconds) <= 300


def test_the_report_has_every_row(tmp_path: Path) -> None:
    rows: list[dict[str, str | float | int | bool | None]] = [{"a": 1, "b": 2.5}, {"a": None, "c": True, "ok": False}]
    result = Result("one", "a stage", "stopped after 5 s", 5.1, 5.0, rows, ["the last line"])
    text = markdown({"torch": "2.11"}, [result])
    assert "| one | stopped after 5 s | 5.1 | 5 |" in text and "the last line" in text
    assert "| a | b | c | ok |\n| --- | --- | --- | --- |\n| 1 | 2.5 |  |  |\n|  |  | yes | NO |" in text
    write_report(tmp_path, {"torch": "2.11"}, [result])
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert content["stages"][0]["rows"] == rows and content["environment"] == {"torch": "2.11"}


def test_an_unknown_stage_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse_arguments(["golden", "speed"])
    assert "there is no stage speed" in capsys.readouterr().err


def record(arm: str, seed: int, ap: float) -> Record:
    results: dict[str, dict[str, dict[str, float | None]]] = {"val": {"segm": {"AP": ap}}}
    return Record("s", "", arm, seed, [], "r", "c", "cuda", 400, {}, Usage(60.0, 30.0), results, {})


def test_table_3_counts_complete_seeds_only() -> None:
    study = load_study(REPOSITORY / "configs/Studies/table3_embryos.yaml")
    found = [record(arm, seed, 50 + seed + number) for seed in (1, 2) for number, arm in enumerate(study.arms)]
    found.append(record("base", 3, 99.0))
    rows = {row["arm"]: row for row in table(study, {one.name: one for one in found})}
    assert list(rows) == list(study.arms) and all(row["seeds"] == 2 for row in rows.values())
    assert rows["base"]["AP"] == 51.5 and rows["base"]["AP above base"] == 0.0
    assert rows["both"]["AP above base"] == 4.0 and rows["both"]["AP50"] is None


def dry_run(folder: Path, *words: str) -> tuple[int, dict[str, dict[str, object]]]:
    """What `gpu_check.sh --dry-run` gives: its exit code and its stages by name."""
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "GPU_CHECK_PACK": str(folder / "none"),
        "OMP_NUM_THREADS": "1",
    }
    script = str(REPOSITORY / "tools/gpu_check.sh")
    done = subprocess.run(["bash", script, "--dry-run", "--output", str(folder), *words], env=environment, check=False)
    content = json.loads((folder / "gpu_check.json").read_text())
    return done.returncode, {stage["name"]: stage for stage in content["stages"]}


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    code, found = dry_run(tmp_path)
    assert list(found) == [stage.name for stage in command.STAGES]
    assert {name: stage["outcome"] for name, stage in found.items()} == dict.fromkeys(found, "ok"), found
    assert code == 0 and all(stage["rows"] for stage in found.values())


@pytest.mark.slow
@pytest.mark.skipif("ADET_IUQ_DATA" not in os.environ, reason="embryos are not in the repository")
def test_dry_run_of_table_3(tmp_path: Path) -> None:
    code, found = dry_run(tmp_path, "table3")
    assert list(found) == ["table3"] and code == 0, found
    assert len(found["table3"]["rows"]) == 2  # type: ignore[arg-type]
