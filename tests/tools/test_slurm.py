"""The SLURM scripts against stand-ins: a fake srun and scontrol, and a module that plays submitit."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from adet_iuq.errors import UserError
from helpers.faults import TINY
from helpers.golden import REPOSITORY

# Starts two tasks with SLURM's variables, passes signals on, and returns the highest exit code, as srun does.
SRUN = """#!{python}
import os, signal, subprocess, sys
command = [word for word in sys.argv[1:] if word != "--kill-on-bad-exit=0" and not word.startswith("--wait=")]
variables = {{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2"}}
tasks = [
    subprocess.Popen(command, env={{**os.environ, **variables, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}})
    for i in range(2)
]
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""


def program(folder: Path, name: str, content: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    (folder / name).chmod(0o755)


@pytest.mark.slow
def test_the_batch_script_requeues_an_interrupted_run(tmp_path: Path) -> None:
    fakes, output = tmp_path / "bin", tmp_path / "output"
    program(fakes, "srun", SRUN.format(python=sys.executable))
    program(fakes, "scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n')
    program(fakes, "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    environment = {
        **os.environ, "PATH": f"{fakes}:{os.environ['PATH']}", "SLURM_JOB_ID": str(os.getpid()), "OMP_NUM_THREADS": "1",
        "SLURM_SUBMIT_DIR": str(REPOSITORY), "PYTHONPATH": str(REPOSITORY), "ADET_IUQ_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    script = ["bash", str(REPOSITORY / "tools/slurm/train.sbatch"), *TINY]
    job = subprocess.Popen(
        [*script, "SOLVER.MAX_ITER", "400", "SOLVER.CHECKPOINT_PERIOD", "0", "OUTPUT_DIR", str(output)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not (output / "metrics.json").is_file() or not (output / "metrics.json").read_text():
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.2)
        # To every process of the job, also to this script, as at preemption.
        os.killpg(job.pid, signal.SIGUSR1)
        error = job.communicate(timeout=240)[1]
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 75, error
    assert "Stopped by SIGUSR1 after iteration" in error
    assert (tmp_path / "scontrol.txt").read_text() == f"requeue {os.getpid()}\n"
    last = (output / "last_checkpoint").read_text()
    assert (output / last).is_file() and last != "model_final.pth"
    assert "Process 1 of 2" in (output / "log.txt.rank1").read_text()


def test_the_batch_script_is_sound_bash_and_passes_other_codes_on(tmp_path: Path) -> None:
    program(tmp_path / "bin", "srun", "#!/bin/sh\nexit 2\n")
    program(tmp_path / "bin", "scontrol", f"#!/bin/sh\ntouch {tmp_path}/requeued\n")
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "5"}
    done = subprocess.run(["bash", str(REPOSITORY / "tools/slurm/train.sbatch")], env=environment, check=False)
    assert done.returncode == 2 and not (tmp_path / "requeued").exists()


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slurm_submit", REPOSITORY / "tools/slurm/submit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Executor:
    """What submitit's AutoExecutor takes."""

    made: "list[Executor]" = []  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.parameters: dict[str, Any] = {}
        self.made.append(self)

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def submit(self, job: Any) -> Any:
        self.job = job
        return SimpleNamespace(job_id="17")


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of that name."""
    module = ModuleType("submitit")
    module.__spec__ = importlib.util.spec_from_loader("submitit", loader=None)
    module.AutoExecutor = Executor  # type: ignore[attr-defined]
    module.helpers = SimpleNamespace(DelayedSubmission=lambda function: ("delayed", function))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "submitit", module)
    Executor.made.clear()
    return module


def test_submission(tool: ModuleType, submitit: ModuleType) -> None:
    words = ["--nodes", "2", "--hours", "1.5", "--partition", "gpu"]
    args = tool.parser().parse_args([*words, "--", "--config-file", "x.yaml"])
    args.words = args.words[1:]
    assert tool.submit(args).job_id == "17"
    (executor,) = Executor.made
    assert executor.parameters["nodes"] == 2 and executor.parameters["tasks_per_node"] == 8
    assert executor.parameters["timeout_min"] == 90 and executor.parameters["slurm_partition"] == "gpu"
    assert executor.job.words == ["--config-file", "x.yaml"]
    kind, again = executor.job.checkpoint()
    assert kind == "delayed" and isinstance(again, tool.TrainingJob) and again.words == executor.job.words


def test_an_interruption_goes_to_submitits_handler(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    seen: list[Any] = []

    def interrupted(main: Any, args: Any) -> None:
        seen.append(args)
        sys.exit(75)

    monkeypatch.setattr(tool, "launch", interrupted)
    monkeypatch.setattr(tool, "_REQUEUE_SECONDS", 0)
    before = signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
    try:
        with pytest.raises(SystemExit):
            tool.TrainingJob(["--config-file", "x.yaml"])()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2] and seen[0].resume and seen[0].config_file == "x.yaml"


def test_without_submitit_it_says_what_to_do(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*train\.sbatch"):
        tool.submit(tool.parser().parse_args([]))
