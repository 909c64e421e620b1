"""MaskFormerIUQ through the trainer, under large-scale jitter: resumed equals unbroken, two processes equal one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.engine import Trainer, argument_parser, launch, setup
from helpers.golden import REPOSITORY
from helpers.scenes import SMALL_MASK2FORMER

TIMING = ("time", "data_time", "eta_seconds")
TINY = {
    "DATASETS.TRAIN": "('shapes_train',)", "DATASETS.TEST": "()", "DATASETS.SHAPES.SIZE": "64",
    "DATASETS.SHAPES.NUM_TRAIN": "12", "INPUT.DATASET_MAPPER_NAME": "coco_instance_lsj", "INPUT.IMAGE_SIZE": "64",
    "INPUT.MIN_SCALE": "0.7", "MODEL.DEVICE": "cpu", "MODEL.META_ARCHITECTURE": "MaskFormerIUQ",
    "MODEL.RESNETS.NORM": "FrozenBN", "MODEL.IUQ.INTER.START_ITER": "0", "MODEL.IUQ.INTER.RAMP_ITERS": "3",
    "MODEL.IUQ.INTER.MAX_QUERIES": "30", "MODEL.IUQ.MEMORY.CAPACITY": "2000", "SOLVER.IMS_PER_BATCH": "4",
    "SOLVER.MAX_ITER": "6", "SOLVER.STEPS": "(5,)", "SOLVER.CHECKPOINT_PERIOD": "3", "SOLVER.WARMUP_ITERS": "2",
    "SEED": "1", "DATALOADER.NUM_WORKERS": "0", "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "5", "REPORT.ENABLED": "False",
}  # fmt: skip


def train(args: Any) -> None:
    trainer = Trainer(setup(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def arguments(output: Path, cache: Path, *flags: str, **overrides: str) -> Any:
    narrow = dict(zip(SMALL_MASK2FORMER[::2], SMALL_MASK2FORMER[1::2], strict=True))
    options = {**narrow, **TINY, "OUTPUT_DIR": str(output), "DATASETS.SHAPES.ROOT": str(cache)}
    options |= {name.replace("__", "."): value for name, value in overrides.items()}
    config = ["--config-file", str(REPOSITORY / "configs/Base-Mask2Former-small.yaml"), *flags]
    return argument_parser().parse_args([*config, *(word for pair in options.items() for word in pair)])


def losses(folder: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: {k: v for k, v in line.items() if k not in TIMING} for line in lines}


@pytest.mark.slow
def test_resumed_run_equals_the_unbroken_one(tmp_path: Path) -> None:
    """The random points come from the global generator, whose state a checkpoint keeps."""
    output = tmp_path / "run"
    train(arguments(output, tmp_path))
    unbroken, final = losses(output), torch.load(output / "model_final.pth")
    assert len(unbroken) == 6 and unbroken[5]["loss_inter"] > 0 and unbroken[5]["loss_equi"] > 0
    (output / "last_checkpoint").write_text("model_0000002.pth")
    train(arguments(output, tmp_path, "--resume"))
    assert losses(output) == unbroken
    again = torch.load(output / "model_final.pth")
    for name, tensor in final["model"].items():
        assert torch.equal(tensor, again["model"][name]), name
    for name, tensor in final["trainer"]["iuq"].items():
        assert torch.equal(tensor, again["trainer"]["iuq"][name]), name


@pytest.mark.slow
def test_two_processes_hold_the_memory_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step from the same weights: the same memory, and no process waits for the other in the losses."""
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for processes in (1, 2):
        launch(
            train, arguments(tmp_path / str(processes), tmp_path, "--num-gpus", str(processes), SOLVER__MAX_ITER="1")
        )
    one, two = (torch.load(tmp_path / name / "model_final.pth")["trainer"]["iuq"] for name in "12")
    assert one["cursor"][1] > 20
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-4)
    assert torch.equal(one["image_ids"], two["image_ids"])
