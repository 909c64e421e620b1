"""CondInstIUQ through the trainer: a resumed run equals the unbroken one, two processes equal one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.engine import Trainer, argument_parser, launch, setup
from helpers.golden import REPOSITORY

TIMING = ("time", "data_time", "eta_seconds")
TINY = {
    "DATASETS.TEST": "()", "DATASETS.SHAPES.SIZE": "64", "DATASETS.SHAPES.NUM_TRAIN": "12", "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "MODEL.FPN.OUT_CHANNELS": "32", "MODEL.CONDINST.MASK_BRANCH.CHANNELS": "32", "MODEL.DEVICE": "cpu",
    "MODEL.IUQ.INTER.START_ITER": "0", "MODEL.IUQ.INTER.RAMP_ITERS": "3", "MODEL.IUQ.INTER.MAX_QUERIES": "30",
    "MODEL.IUQ.MEMORY.CAPACITY": "400", "SOLVER.IMS_PER_BATCH": "4", "SOLVER.MAX_ITER": "6", "SOLVER.STEPS": "(5,)",
    "SOLVER.CHECKPOINT_PERIOD": "3", "SOLVER.WARMUP_ITERS": "2", "SEED": "1", "DATALOADER.NUM_WORKERS": "0",
    "REPORT.ENABLED": "False",
}  # fmt: skip


def train(args: Any) -> None:
    trainer = Trainer(setup(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def arguments(output: Path, cache: Path, *flags: str, **overrides: str) -> Any:
    options = {**TINY, "OUTPUT_DIR": str(output), "DATASETS.SHAPES.ROOT": str(cache)}
    options |= {name.replace("__", "."): value for name, value in overrides.items()}
    config = ["--config-file", str(REPOSITORY / "configs/quickstart.yaml"), *flags]
    return argument_parser().parse_args([*config, *(word for pair in options.items() for word in pair)])


def losses(folder: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: {k: v for k, v in line.items() if k not in TIMING} for line in lines}


@pytest.mark.slow
def test_resumed_run_equals_the_unbroken_one(tmp_path: Path) -> None:
    for views, normalizer in (("paired", "fg"), ("extra", "moving_fg")):
        output = tmp_path / views
        options = {"MODEL__IUQ__EQUI__VIEWS": views, "MODEL__FCOS__LOSS_NORMALIZER_CLS": normalizer}
        train(arguments(output, tmp_path, **options))
        unbroken, final = losses(output), torch.load(output / "model_final.pth")
        assert len(unbroken) == 6 and unbroken[5]["loss_inter"] > 0
        (output / "last_checkpoint").write_text("model_0000002.pth")
        train(arguments(output, tmp_path, "--resume", **options))
        assert losses(output) == unbroken
        again = torch.load(output / "model_final.pth")
        for name, tensor in final["model"].items():
            assert torch.equal(tensor, again["model"][name]), name
        for name, tensor in final["trainer"]["iuq"].items():
            assert torch.equal(tensor, again["trainer"]["iuq"][name]), name


@pytest.mark.slow
def test_two_processes_hold_the_memory_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step from the same weights: the same losses on average (no BatchNorm), the same memory byte for byte."""
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    frozen = {"MODEL__RESNETS__NORM": "FrozenBN", "MODEL__CONDINST__MASK_BRANCH__NORM": "GN", "SOLVER__MAX_ITER": "1"}
    for processes in (1, 2):
        launch(train, arguments(tmp_path / str(processes), tmp_path, "--num-gpus", str(processes), **frozen))
    one, two = (torch.load(tmp_path / name / "model_final.pth")["trainer"]["iuq"] for name in "12")
    assert one["cursor"][1] > 20
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5)
    assert torch.equal(one["image_ids"], two["image_ids"])
    for name in ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"):
        values = [losses(tmp_path / folder)[0][name] for folder in "12"]
        assert values[0] == pytest.approx(values[1], rel=1e-5), name


@pytest.mark.slow
def test_a_sharded_memory_is_saved_whole_and_split_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes resume as if unbroken; one process goes on with the whole memory, and says that it differs."""
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = {"MODEL__IUQ__MEMORY__SHARD": "True", "MODEL__IUQ__INTER__SAMPLE": "100", "SOLVER__MAX_ITER": "4"}
    options |= {"SOLVER__CHECKPOINT_PERIOD": "2", "MODEL__IUQ__MEMORY__CHECK_PERIOD": "1"}
    states = {}
    for name, flags in (("unbroken", ("--num-gpus", "2")), ("two", ("--num-gpus", "2")), ("one", ())):
        if name != "unbroken":
            (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
            flags = (*flags, "--resume")
        run = arguments(tmp_path, tmp_path, *flags, **options)
        if name == "one":
            train(run)
        else:
            launch(train, run)
        states[name] = torch.load(tmp_path / "model_final.pth")["trainer"]["iuq"], losses(tmp_path)
    (unbroken, lines), (two, two_lines), (one, one_lines) = states.values()
    assert lines == two_lines and lines[3]["loss_inter"] > 0
    assert len(unbroken["image_ids"]) == 400 and unbroken["cursor"][1] > 100
    assert all(torch.equal(unbroken[name], two[name]) for name in unbroken)
    # The same images were read, and what was stored before the resume is there, bit for bit.
    saved = torch.load(tmp_path / "model_0000001.pth")["trainer"]["iuq"]
    kept = int(saved["cursor"][1])
    assert torch.equal(one["image_ids"], unbroken["image_ids"])
    assert torch.equal(one["features"][:kept], saved["features"][:kept]) and kept > 20
    assert one_lines[3]["loss_inter"] > 0
    assert "saved with 2 processes and goes on with 1" in (tmp_path / "log.txt").read_text()
