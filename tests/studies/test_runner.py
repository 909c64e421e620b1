"""The runner with stand-ins for trainings: it finishes what it is killed in, never twice at once, and pauses."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adet_iuq.errors import UserError
from adet_iuq.studies import runner
from adet_iuq.studies.begun import begin, check_begun
from adet_iuq.studies.folder import StudyFolder
from adet_iuq.studies.processes import Lock, Process, is_held
from adet_iuq.studies.record import Usage, read_records
from adet_iuq.studies.runner import collect, pause, slots
from adet_iuq.studies.study import load_study
from helpers.fake_run import leave_files
from helpers.fake_study import fake_runner
from helpers.golden import REPOSITORY


def study_file(folder: Path, arms: tuple[str, ...] = ("base", "more"), seeds: tuple[int, ...] = (1, 2)) -> Path:
    (folder / "base.yaml").write_text("{}\n")
    tree = {
        "name": "fake",
        "config": "base.yaml",
        "base": "base",
        "seeds": list(seeds),
        "arms": {arm: [] for arm in arms},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder / "study.yaml"


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts runners as processes of their own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(study: Path, output: Path, jobs: int, steps: int) -> "subprocess.Popen[str]":
        words = [
            sys.executable,
            str(REPOSITORY / "tests/helpers/fake_study.py"),
            str(study),
            str(output),
            str(jobs),
            str(steps),
        ]
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests"}
        started.append(
            subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def counts(output: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(output.glob("work/*/count.txt"))}


def starts(output: Path, name: str) -> list[int]:
    """From which step each part of a run went on."""
    return [int(line.split()[1]) for line in (output / "work" / name / "starts.txt").read_text().splitlines()]


def test_a_study_from_start_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert fake_runner(study_file(tmp_path), output, jobs=2, steps=2).run() == 0
    records = {record.name: record for record in read_records(output / "runs")}
    assert sorted(records) == ["base.seed1", "base.seed2", "more.seed1", "more.seed2"]
    one = records["more.seed2"]
    assert one.metrics() == {"segm/AP": 24.0, "train/iuq/fire_rate": 0.5, "train/loss_mask": 8.5}
    assert (one.revision, one.device, one.iterations) == ("abc", "cpu", 10)
    assert one.usage.whole and one.usage.wall_s > 0.1 and 0 < one.usage.cpu_s <= 2 * one.usage.wall_s
    assert one.config_sha256 == records["more.seed1"].config_sha256 != records["base.seed1"].config_sha256
    assert not list(output.glob("work/*/*.pth")) and (output / "work/more.seed2/metrics.json").is_file()
    said = capsys.readouterr().out
    assert said.index("start  base.seed1") < said.index("start  more.seed1") < said.index("start  base.seed2")
    assert "4 of 4, left 0:00:00" in said

    assert fake_runner(study_file(tmp_path), output, jobs=2, steps=2).run() == 0
    assert starts(output, "base.seed1") == [0]  # what is done is not done again


def test_a_run_that_fails_is_named_and_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, ("bad", "base"), (1,))
    assert fake_runner(study, output, jobs=1, steps=2).run() == 1
    assert [record.name for record in read_records(output / "runs")] == ["base.seed1"]
    assert "1 runs failed: bad.seed1" in capsys.readouterr().out
    assert "exit code 2" in (output / "failed/bad.seed1.txt").read_text()
    assert "UserError: this arm is bad" in (output / "failed/bad.seed1.txt").read_text()
    assert StudyFolder(output).state(load_study(study).runs()[0]) == "failed"
    (output / "work/mended").touch()
    assert fake_runner(study, output, jobs=1, steps=2).run() == 0
    assert not (output / "failed/bad.seed1.txt").exists()


def test_a_killed_runner_takes_its_runs_along_and_another_goes_on(tmp_path: Path, start: Start) -> None:
    output, study = tmp_path / "out", study_file(tmp_path)
    runner = start(study, output, 2, 20)
    wait_for(lambda: len(counts(output)) == 2)
    runner.kill()
    runner.wait()
    locks = [path / "lock" for path in (output / "work").iterdir()]
    wait_for(lambda: all(is_held(path) is None for path in locks))
    before = counts(output)
    time.sleep(0.3)
    assert counts(output) == before and not list(output.glob("runs/*"))
    assert fake_runner(study, output, jobs=2, steps=20).run() == 0
    records = list(read_records(output / "runs"))
    assert len(records) == 4
    assert all(record.usage.whole for record in records)  # no part was saved: they were done from the start
    assert starts(output, "base.seed1") == [0, 0]


def test_a_stopped_runner_lets_its_runs_save(tmp_path: Path, start: Start) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))
    runner = start(study, output, 2, 40)
    wait_for(lambda: len(counts(output)) == 2)
    runner.terminate()
    said = runner.communicate(timeout=30)[0]
    assert runner.returncode == 75 and "cut    base.seed1" in said and "continues" in said
    assert StudyFolder(output).state(load_study(study).runs()[0]) == "cut"
    assert fake_runner(study, output, jobs=2, steps=40).run() == 0
    first, second = starts(output, "base.seed1")
    assert first == 0 and second > 0
    record = next(iter(read_records(output / "runs")))
    assert record.usage.whole and record.usage.wall_s > 40 * 0.05  # both parts


def test_a_run_that_was_killed_with_a_checkpoint_has_no_known_cost(tmp_path: Path) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))
    work = output / "work/base.seed1"
    work.mkdir(parents=True)
    (work / "last_checkpoint").write_text("1")
    (work / "usage.json").write_text(json.dumps({"wall_s": 5.0, "cpu_s": 5.0, "whole": False}))
    assert fake_runner(study, output, jobs=2, steps=2).run() == 0
    costs = {record.arm: record.cost for record in read_records(output / "runs")}
    assert costs["base"] is None and costs["more"] is not None


def test_one_runner_a_folder(tmp_path: Path, start: Start) -> None:
    output, study = tmp_path / "out", study_file(tmp_path)
    runner = start(study, output, 1, 100)
    wait_for(lambda: counts(output))
    with pytest.raises(UserError, match=f"Another runner, process {runner.pid}"):
        fake_runner(study, output, jobs=1, steps=1).run()


def test_pause_and_continue(tmp_path: Path, start: Start) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))
    folder = StudyFolder(output)
    with pytest.raises(UserError, match="No runner is at work"):
        pause(folder, wanted=True)
    runner = start(study, output, 2, 40)
    wait_for(lambda: len(counts(output)) == 2)
    pause(folder, wanted=True)
    before = counts(output)
    time.sleep(3.0)
    assert counts(output) == before
    pause(folder, wanted=False)
    said = runner.communicate(timeout=30)[0]
    assert runner.returncode == 0, said
    assert "Paused, 2 runs stand still." in said and "Going on." in said
    assert all(2.0 < record.usage.wall_s < 4.5 for record in read_records(output / "runs"))  # without the pause


def test_a_pause_ends_with_its_runner(tmp_path: Path, start: Start) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))
    runner = start(study, output, 2, 20)
    wait_for(lambda: len(counts(output)) == 2)
    pause(StudyFolder(output), wanted=True)
    runner.kill()
    runner.wait()
    assert fake_runner(study, output, jobs=2, steps=2).run() == 0


def test_who_is_left_over_from_an_earlier_runner_is_ended(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from adet_iuq.studies.processes import Lock\n"
        "lock = Lock(Path(sys.argv[1])); lock.take(); lock.sign(); print('taken', flush=True); time.sleep(60)"
    )
    orphan = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert orphan.stdout is not None and orphan.stdout.readline() == "taken\n"
    assert is_held(tmp_path / "lock") == orphan.pid
    process = Process([sys.executable, "-c", ""], tmp_path, os.environ)
    assert orphan.wait(10) == -signal.SIGKILL
    orphan.stdout.close()
    wait_for(lambda: process.poll() == 0)
    assert is_held(tmp_path / "lock") is None


def test_only_looking_at_a_lock_stops_nobody(tmp_path: Path) -> None:
    looker, taker = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert looker.take() and not taker.take()
    looker.close()
    assert taker.take(patience=1.0)
    taker.close()


def test_records_of_other_overrides_are_refused(tmp_path: Path) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))
    assert fake_runner(study, output, jobs=2, steps=1).run() == 0
    study.write_text(study.read_text().replace("more: []", "more: [KEY, 1]"))
    with pytest.raises(UserError, match=r"more\.seed1\.json was made with other overrides"):
        fake_runner(study, output, jobs=2, steps=1).run()


def test_a_cut_run_is_not_continued_under_other_overrides(tmp_path: Path, start: Start) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))
    runner = start(study, output, 2, 40)
    wait_for(lambda: len(counts(output)) == 2)
    runner.terminate()
    runner.communicate(timeout=30)
    original = study.read_text()
    study.write_text(original.replace("more: []", "more: [KEY, 1]"))
    with pytest.raises(UserError, match=r"work/more\.seed1 was begun .* overrides \(\), now \(KEY 1\)"):
        fake_runner(study, output, jobs=2, steps=40).run()
    assert starts(output, "base.seed1") == [0]  # nothing was started before it was found
    shutil.rmtree(output / "work/more.seed1")
    assert fake_runner(study, output, jobs=2, steps=40).run() == 0
    assert {record.arm: record.overrides for record in read_records(output / "runs")}["more"] == ["KEY", "1"]


def test_a_cut_run_is_not_continued_by_other_code_or_with_another_config(tmp_path: Path) -> None:
    study, folder = load_study(study_file(tmp_path)), tmp_path / "work"
    run = study.runs()[0]
    begin(folder, study, run, "abc")
    check_begun(folder, study, run, "abc")
    with pytest.raises(UserError, match="was begun with another study file or code: revision abc, now def"):
        check_begun(folder, study, run, "def")
    with pytest.raises(UserError, match=r"config base\.yaml, now other\.yaml"):
        begin(folder, dataclasses.replace(study, config=tmp_path / "other.yaml"), run, "abc")
    (folder / "begun.json").write_text("")
    with pytest.raises(UserError, match=r"begun\.json cannot be read"):
        check_begun(folder, study, run, "abc")


@pytest.mark.parametrize("how", ["run", "collect"])
def test_a_removed_record_comes_back_from_the_runs_files(tmp_path: Path, how: str) -> None:
    """Also without its weights, but without time and machine, and never under other overrides."""
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))

    def again() -> object:
        if how == "run":
            return fake_runner(study, output, jobs=2, steps=1).run()
        return collect(load_study(study), StudyFolder(output), "abc")

    assert fake_runner(study, output, jobs=2, steps=1).run() == 0
    path = output / "runs/more.seed1.json"
    before = {record.arm: record for record in read_records(path.parent)}["more"]
    assert not list(output.glob("work/*/*.pth")) and before.cost is not None and before.machine
    path.unlink()
    again()
    after = {record.arm: record for record in read_records(path.parent)}["more"]
    assert after == dataclasses.replace(before, usage=Usage(whole=False), machine={})
    assert starts(output, "more.seed1") == [0]
    path.unlink()
    study.write_text(study.read_text().replace("more: []", "more: [KEY, 1]"))
    with pytest.raises(UserError, match=r"work/more\.seed1 was begun with another study file"):
        again()
    assert not path.exists()


def test_a_run_with_broken_files_does_not_stop_the_others(tmp_path: Path) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))
    broken = output / "work/base.seed1"
    broken.mkdir(parents=True)
    leave_files(broken, "base", 1)
    metrics = (broken / "metrics.json").read_text()
    (broken / "metrics.json").write_text("{\n" + metrics)
    with pytest.raises(UserError, match=r"base\.seed1 is not the folder of a finished run"):
        collect(load_study(study), StudyFolder(output), "abc")
    assert fake_runner(study, output, jobs=2, steps=1).run() == 0  # done again, as its files allow no record
    assert len(list(read_records(output / "runs"))) == 2


def test_runs_of_other_launchers_are_collected_once_they_have_ended(tmp_path: Path) -> None:
    study, folder = load_study(study_file(tmp_path, seeds=(1,))), StudyFolder(tmp_path / "out")
    for run in study.runs():
        folder.work(run).mkdir(parents=True)
        leave_files(folder.work(run), run.arm, run.seed)
    unfinished = folder.work(study.runs()[1]) / "metrics.json"
    unfinished.write_text("\n".join(unfinished.read_text().splitlines()[:-1]))
    assert [run.name for run in collect(study, folder, "abc")] == ["base.seed1"]
    assert collect(study, folder, "abc") == []
    (record,) = read_records(folder.runs)
    assert record.cost is None and record.metrics()["segm/AP"] == 14.0


def test_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "available_cores", lambda: 2)  # a container's quota counts, tests/test_cores.py
    assert slots(None, {}, []) == [{}, {}]
    assert slots(3, {"A": "1"}, ["5", "7"]) == [{"A": "1", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("5", "7", "5")]
    assert slots(None, {}, ["0", "1"]) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    output, study = tmp_path / "out", study_file(tmp_path, seeds=(1,))
    assert fake_runner(study, output, jobs=2, steps=1).run() == 0
    record = next(iter(read_records(output / "runs")))
    assert dataclasses.asdict(record)["arm"] == "base"
    (output / "runs/base.seed1.json").write_text("{")
    with pytest.raises(UserError, match=r"base\.seed1\.json is not the record of a run"):
        fake_runner(study, output, jobs=2, steps=1).run()
