"""train_net.py --project: a segmenter and its keys from a folder, in every process of a run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

import adet_iuq
from adet_iuq.engine import setup
from helpers.toy_segmenter import metrics, toy_options

TOOLS = Path(adet_iuq.__file__).parents[1] / "tools"
KEYS = """
from detectron2.config import CfgNode
from .model import ProjectSegmenter

def add_config(cfg):
    cfg.MODEL.PROJECT = CfgNode()
    cfg.MODEL.PROJECT.NUM_CLASSES, cfg.MODEL.PROJECT.FACTOR = 80, 1.0
"""
MODEL = """
from detectron2.modeling import META_ARCH_REGISTRY
from helpers.toy_segmenter import ToySegmenter

@META_ARCH_REGISTRY.register()
class ProjectSegmenter(ToySegmenter):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.factor, self.classes = cfg.MODEL.PROJECT.FACTOR, cfg.MODEL.PROJECT.NUM_CLASSES

    def training_pass(self, batched_inputs):
        result = super().training_pass(batched_inputs)
        result.losses["loss_project"] = 0 * result.losses["loss_cls"] + self.factor * self.classes
        return result
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "projects" / "Tiny"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(KEYS)
    (folder / "model.py").write_text(MODEL)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A tool as a program of its own, in `tmp_path`, with tests/ on its path."""

    def start(tool: str, *words: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(TOOLS / f"{tool}.py"), *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return start


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_project_trains(project: Path, run: Run, tmp_path: Path, processes: str) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text("MODEL:\n  META_ARCHITECTURE: ProjectSegmenter\n  PROJECT:\n    FACTOR: 0.5\n")
    options = toy_options(tmp_path / "output", SOLVER__MAX_ITER=2, DATASETS__TEST="()")[2:]  # the file names the model
    words = ["--project", "projects/Tiny", "--config-file", str(file), "--num-gpus", processes]
    done = run("train_net", *words, *options, "MODEL.PROJECT.FACTOR", "0.25")
    assert done.returncode == 0, done.stderr
    found = metrics(tmp_path / "output")
    assert found[0]["loss_project"] == repr(0.25 * 5)  # the five classes of the shapes

    if processes == "1":
        image = next(Path(os.environ["ADET_IUQ_CACHE"]).rglob("*.png"))
        weights, config = str(tmp_path / "output" / "model_final.pth"), str(tmp_path / "output" / "config.yaml")
        predict = [str(image), "--config-file", config, "--weights", weights, "--output", str(tmp_path / "found")]
        done = run("predict", *predict, "--project", str(project))
        assert done.returncode == 0 and "1 images, 1 instances" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_project_that_is_none(project: Path, run: Run, tmp_path: Path) -> None:
    (project / "model.py").write_text("raise OSError('out of milk')\n")
    for place, processes, words in (
        ("projects", "1", "Error: --project projects is no project: the folder has no __init__.py."),
        ("projects/Tiny", "2", "Error: --project projects/Tiny cannot be imported: OSError: out of milk ("),
    ):
        done = run("train_net", "--project", place, "--num-gpus", processes, *toy_options(tmp_path / "output"))
        assert done.returncode == 2, done.stderr
        assert done.stderr.count(words) == 1 and "Traceback" not in done.stderr
    assert "model.py, line 1)" in done.stderr


def test_setup_takes_the_arguments_of_detectron2s_own_parser(tmp_path: Path) -> None:
    args = default_argument_parser().parse_args(["--num-gpus", "1", *toy_options(tmp_path)])
    assert setup(args).MODEL.META_ARCHITECTURE == "ToySegmenter"
