"""tools/ablate.py: a study of real trainings that is killed and continued; its other commands."""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ablate
import pytest
import yaml

from adet_iuq.config import load_config
from adet_iuq.engine import argument_parser
from adet_iuq.errors import UserError
from adet_iuq.studies import load_study
from adet_iuq.studies.commands import printed_command
from adet_iuq.studies.folder import StudyFolder
from adet_iuq.studies.revision import Code
from helpers.fake_run import leave_files
from helpers.faults import TINY
from helpers.golden import REPOSITORY

EXAMPLE = REPOSITORY / "configs/Studies/table3_shapes.yaml"
STUDIES = [
    path
    for path in sorted((REPOSITORY / "configs/Studies").rglob("*.yaml"))
    if not path.name.startswith(("Base-", "Data-", "Pretrain-"))
]
TINY_OVERRIDES = [
    *TINY[2:],
    "DATASETS.TEST",
    "('shapes_val',)",
    "DATASETS.SHAPES.NUM_VAL",
    "4",
    "INPUT.MIN_SIZE_TEST",
    "160",  # GroupNorm wants more than one cell on the coarsest level, of a single image
]


def pairs(words: list[str]) -> list[str]:
    """Overrides of a study: without the seed, which is the runner's."""
    return [word for key, value in zip(words[::2], words[1::2], strict=True) if key != "SEED" for word in (key, value)]


def tiny_study(folder: Path, code: Path = REPOSITORY) -> Path:
    """Two arms and two seeds of the smallest trainings, with a config of `code`."""
    tree = {
        "name": "tiny",
        "config": str(code / "configs/quickstart.yaml"),
        "base": "base",
        "seeds": [1, 2],
        "overrides": [*pairs(TINY_OVERRIDES), "SOLVER.IMS_PER_BATCH", 4, "SOLVER.CHECKPOINT_PERIOD", 1],
        "arms": {"base": ["MODEL.IUQ.INTER.ENABLED", False, "MODEL.IUQ.EQUI.ENABLED", False], "both": []},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder / "study.yaml"


def checkout(folder: Path) -> Path:
    """A clean git checkout of what is being tested, committed or not."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("adet_iuq", "tools", "configs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return folder


class Study:
    """Starts tools/ablate.py of a checkout on a study, in a process group of its own."""

    def __init__(self, code: Path, study: Path, output: Path, cache: Path) -> None:
        self.command = [
            sys.executable,
            str(code / "tools/ablate.py"),
            str(study),
            "--output",
            str(output),
            "--jobs",
            "2",
        ]
        self.environment = {**os.environ, "ADET_IUQ_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code)}
        self.output = output

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.command, *words], env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def finish(self, *words: str) -> str:
        process = self.start(*words)
        said = process.communicate(timeout=600)[0]
        assert process.returncode == 0, said
        return said

    def start_and_kill(self, arm: str, group: bool) -> None:
        """Kills the runner, or its whole group, once a run has written a checkpoint."""
        process = self.start()
        try:
            deadline = time.monotonic() + 300
            while not (self.output / "work" / arm / "last_checkpoint").is_file():
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
        finally:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
            process.communicate()

    def results(self) -> dict[str, Any]:
        records = [json.loads(path.read_text()) for path in sorted((self.output / "runs").glob("*.json"))]
        return {
            f"{r['arm']}{r['seed']}": (r["results"], r["series"], r["config_sha256"], r["revision"]) for r in records
        }


@pytest.mark.slow
def test_a_study_that_is_killed_and_continued_gives_the_same_numbers(tmp_path: Path) -> None:
    code = checkout(tmp_path / "checkout")
    study = tiny_study(tmp_path, code)
    whole = Study(code, study, tmp_path / "whole", tmp_path / "cache")
    whole.finish()
    assert sorted(whole.results()) == ["base1", "base2", "both1", "both2"]

    cut = Study(code, study, tmp_path / "cut", tmp_path / "cache")
    cut.start_and_kill("both.seed1", group=False)
    with (code / "configs/quickstart.yaml").open("a") as file:
        file.write("VERSION: 'a later revision, which is broken'\n")
    cut.start_and_kill("both.seed2", group=True)
    said = cut.finish()
    assert cut.results() == whole.results()
    assert not list(cut.output.glob("work/*/*.pth")) and (cut.output / "work/both.seed2/metrics.json").is_file()
    assert "Report:" in said and "base" in (cut.output / "report.md").read_text()
    report = (cut.output / "report.md").read_bytes()
    assert "done" in cut.finish("--status")
    cut.finish("--report")
    assert (cut.output / "report.md").read_bytes() == report


def test_the_example_is_sound() -> None:
    for quick in (False, True):
        ablate.check_configs(load_study(EXAMPLE, quick))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_is_sound_and_named_after_its_file(path: Path) -> None:
    """Also those at full size, which nobody can run here."""
    study = load_study(path)
    assert study.name == path.stem and f"{path.relative_to(REPOSITORY)}" in path.read_text()
    ablate.check_configs(study)


def test_a_mistyped_key_is_found_before_anything_starts(tmp_path: Path) -> None:
    path = tiny_study(tmp_path)
    path.write_text(path.read_text().replace("MODEL.IUQ.EQUI.ENABLED", "MODEL.IUQ.EQUI.ENABELD"))
    with pytest.raises(UserError, match=r"run base\.seed1.*Did you mean MODEL\.IUQ\.EQUI\.ENABLED"):
        ablate.check_configs(load_study(path))


@pytest.mark.parametrize(
    "launcher,tool",
    [
        ("local", "python <code>/tools/train_net.py"),
        ("torchrun", "torchrun --standalone"),
        ("slurm", "ADET_IUQ_CODE=<code> PYTHONPATH=<code> sbatch"),
    ],
    ids=["local", "torchrun", "slurm"],
)
def test_printed_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any, launcher: str, tool: str
) -> None:
    code = checkout(tmp_path / "checkout")
    monkeypatch.setattr(ablate, "REPOSITORY", code)
    words = [str(tiny_study(tmp_path)), "--output", str(tmp_path / "out"), "--print-commands", "--launcher", launcher]
    assert ablate.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(tool.replace("<code>", str(tmp_path / "out/code")) in line for line in lines)
    words = shlex.split(lines[0].rstrip(")"))
    start = words.index("--config-file")
    args = argument_parser().parse_args(words[start:])
    cfg = load_config(args.config_file, args.opts).cfg
    assert (1, str(tmp_path / "out/work/base.seed1")) == (cfg.SEED, cfg.OUTPUT_DIR)
    assert not cfg.MODEL.IUQ.INTER.ENABLED and (launcher == "slurm" or "--resume" in words)
    assert not any(
        word in words for word in ("cd", "(cd")
    )  # data paths are relative to the folder where it is submitted
    study = load_study(tiny_study(tmp_path))
    assert {StudyFolder(tmp_path / "out").state(run) for run in study.runs()} == {"to do"}


def test_printed_commands_leave_out_what_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(ablate, "REPOSITORY", checkout(tmp_path / "checkout"))
    path, folder = tiny_study(tmp_path), StudyFolder(tmp_path / "out")
    words = [str(path), "--output", str(folder.path), "--print-commands"]
    assert ablate.main(words) == 0
    run = load_study(path).runs()[0]
    leave_files(folder.work(run), run.arm, run.seed)
    capsys.readouterr()
    assert ablate.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"# {run.name} has ended: take it over with --collect" and len(lines) == 4
    path.write_text(path.read_text().replace("MODEL.IUQ.INTER.ENABLED", "MODEL.IUQ.EQUI.ENABLED"))
    assert ablate.main(words) == 2
    assert f"{run.name} was begun with another study file" in capsys.readouterr().err


def test_a_job_of_slurm_runs_the_studys_code_in_the_folder_where_it_was_submitted(tmp_path: Path) -> None:
    """The printed line in a shell, with stand-ins for sbatch, srun and the code."""
    study, origin = load_study(tiny_study(tmp_path)), tmp_path / "checkout"
    (origin / "tools/slurm").mkdir(parents=True)
    shutil.copy(REPOSITORY / "tools/slurm/train.sbatch", origin / "tools/slurm")
    code = Code(tmp_path / "the code", "abc", origin)
    (code.folder / "tools").mkdir(parents=True)
    (code.folder / "tools/train_net.py").write_text("import os, sys\nprint(os.getcwd(), sys.argv[0], sys.argv[1])\n")
    fakes, submitted = tmp_path / "bin", tmp_path / "submitted"
    fakes.mkdir()
    submitted.mkdir()
    (fakes / "sbatch").write_text('#!/bin/sh\nshift\nSLURM_SUBMIT_DIR=$PWD SLURM_JOB_ID=1 exec bash "$@"\n')
    (fakes / "srun").write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    for fake in fakes.iterdir():
        fake.chmod(0o755)
    line = printed_command(study, study.runs()[0], code, tmp_path / "run", "slurm")
    environment = {**os.environ, "PATH": f"{fakes}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", line], cwd=submitted, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{submitted} {code.folder}/tools/train_net.py --resume"


def test_a_missing_data_set_is_found_before_anything_starts(tmp_path: Path) -> None:
    path = tiny_study(tmp_path)
    tree = yaml.safe_load(path.read_text())
    gone = ["DATASETS.REGISTER", [["gone_train", "output/gone.json", "output"]], "DATASETS.TRAIN", ["gone_train"]]
    path.write_text(yaml.safe_dump({**tree, "overrides": [*tree["overrides"], *gone]}, sort_keys=False))
    with pytest.raises(UserError, match=r"base\.seed1.*gone\.json does not exist.*datasets/README\.md"):
        ablate.check_data(load_study(path))


def test_errors_are_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ablate.main([str(tmp_path / "missing.yaml")]) == 2
    assert "missing.yaml cannot be read" in capsys.readouterr().err


def test_the_command_line() -> None:
    args = ablate.parse_arguments(["s.yaml", "--report"])
    assert isinstance(args, argparse.Namespace) and args.report == [] and not args.quick
    with pytest.raises(SystemExit):
        ablate.parse_arguments(["s.yaml", "--pause", "--status"])
