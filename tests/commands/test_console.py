"""The console command: its list, its errors, and the same mains behind tools/*.py."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adet_iuq.commands.console import COMMANDS, main
from helpers.golden import REPOSITORY
from helpers.toy_segmenter import toy_options


def start(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_help_lists_the_commands_without_torch(tmp_path: Path) -> None:
    done = start("-X", "importtime", "-m", "adet_iuq", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(re.search(rf"^  {name} +{text}$", done.stdout, re.M) for name, (text, _) in COMMANDS.items())
    assert not re.search(r"\b(torch|numpy|detectron2)\b", done.stderr)


def test_wrong_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prdict"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: adet-iuq has no command 'prdict'. Did you mean predict?") and "convert" in error
    assert main([]) == 2
    assert "usage: adet-iuq" in capsys.readouterr().err
    assert main(["--version"]) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["adet-iuq"])
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: adet-iuq {name} ")


def test_the_command_is_installed() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    match = re.search(r'^adet-iuq = "([\w.]+):(\w+)"$', project, re.M)
    assert match is not None
    assert vars(importlib.import_module(match[1]))[match[2]] is main


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["train_net", "predict", "check_dataset", "convert_weights"])
def test_the_tools_are_the_same_commands(tool: str, tmp_path: Path) -> None:
    done = start(str(REPOSITORY / f"tools/{tool}.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {tool}.py")


@pytest.mark.slow
def test_train_with_several_processes(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("import helpers.toy_segmenter\n")
    words = [
        "train",
        "--project",
        "toy",
        "--num-gpus",
        "2",
        *toy_options("run", SOLVER__MAX_ITER=2, DATASETS__TEST="()"),
    ]
    done = start("-m", "adet_iuq", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model_final.pth").is_file() and (tmp_path / "run" / "log.txt.rank1").is_file()
    done = start("-m", "adet_iuq", *words, "MODEL.NO_KEY", "1", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "MODEL.NO_KEY" in done.stderr
