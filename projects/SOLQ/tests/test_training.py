"""SOLQ through the trainer and the tools on small scenes: it learns, resumes, evaluates, predicts, is measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adet_iuq.engine import Trainer, argument_parser, setup
from helpers.tools import run_tool

PROJECT = Path(__file__).parents[1]
TIMING = ("time", "data_time", "eta_seconds")
TINY = {
    "DATASETS.REGISTER": "[]", "DATASETS.TRAIN": "('shapes_train',)", "DATASETS.TEST": "('shapes_val',)",
    "DATASETS.SHAPES.SIZE": "64", "DATASETS.SHAPES.NUM_TRAIN": "12", "DATASETS.SHAPES.NUM_VAL": "2",
    "INPUT.MIN_SIZE_TRAIN": "(64,)", "INPUT.MIN_SIZE_TEST": "64", "MODEL.DEVICE": "cpu", "MODEL.SOLQ.HIDDEN_DIM": "64",
    "MODEL.SOLQ.NHEADS": "4", "MODEL.SOLQ.DIM_FEEDFORWARD": "64", "MODEL.SOLQ.ENC_LAYERS": "1", "MODEL.SOLQ.DEC_LAYERS": "2",
    "MODEL.SOLQ.NUM_QUERIES": "12", "MODEL.SOLQ.VECTOR_HIDDEN_DIM": "32", "MODEL.SOLQ.PIXEL_DIM": "16",
    "MODEL.IUQ.INTER.START_ITER": "0", "MODEL.IUQ.INTER.RAMP_ITERS": "3", "MODEL.IUQ.MEMORY.CAPACITY": "2000",
    "SOLVER.MAX_ITER": "6", "SOLVER.STEPS": "(5,)", "SOLVER.CHECKPOINT_PERIOD": "3", "SOLVER.WARMUP_ITERS": "2", "SEED": "1",
    "DATALOADER.NUM_WORKERS": "0", "REPORT.ENABLED": "False",
}  # fmt: skip


def train(output: Path, meta_architecture: str, *flags: str, **overrides: str) -> dict[int, dict[str, float]]:
    """Runs a training; what it logged at each iteration, but for the time that it took."""
    options = {**TINY, "OUTPUT_DIR": str(output), "DATASETS.SHAPES.ROOT": str(output.parent)}
    options |= {"MODEL.META_ARCHITECTURE": meta_architecture}
    options |= {name.replace("__", "."): value for name, value in overrides.items()}
    config = ["--project", str(PROJECT), "--config-file", str(PROJECT / "configs" / "R18_overfit_iuq.yaml"), *flags]
    args = argument_parser().parse_args([*config, *(word for pair in options.items() for word in pair)])
    trainer = Trainer(setup(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: {k: v for k, v in line.items() if k not in TIMING} for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("meta_architecture", ["SOLQ", "PixelSOLQ", "SOLQIUQ"])
def test_resumed_run_equals_the_unbroken_one(tmp_path: Path, meta_architecture: str) -> None:
    output = tmp_path / "run"
    unbroken, final = train(output, meta_architecture), torch.load(output / "model_final.pth")
    assert max(unbroken) >= 5 and "segm/AP" in unbroken[max(unbroken)]
    assert (unbroken[5].get("loss_inter", 0.0) > 0) == (meta_architecture == "SOLQIUQ")
    (output / "last_checkpoint").write_text("model_0000002.pth")
    assert train(output, meta_architecture, "--resume") == unbroken
    again: dict[str, Any] = torch.load(output / "model_final.pth")
    for name, tensor in final["model"].items():
        assert torch.equal(tensor, again["model"][name]), name
    for name, tensor in final["trainer"]["iuq"].items():
        assert torch.equal(tensor, again["trainer"]["iuq"][name]), name


@pytest.mark.slow
def test_short_run_learns(tmp_path: Path) -> None:
    lines = train(tmp_path / "run", "SOLQIUQ", SOLVER__MAX_ITER="60", SOLVER__STEPS="()", DATASETS__TEST="()")
    steps = [line for line in lines.values() if "total_loss" in line]
    first, last = steps[0], steps[-1]
    for name in ("loss_ce", "loss_giou", "loss_vector", "loss_pixel_dice"):
        assert last[name] < 0.9 * first[name], name
    assert last["loss_inter"] > 0 and last["loss_equi"] < first["loss_equi"]


@pytest.mark.slow
def test_its_weights_predict(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, "SOLQIUQ", SOLVER__MAX_ITER="2", SOLVER__STEPS="()", DATASETS__TEST="()")
    image = next(tmp_path.rglob("*.png"))
    weights = ["--config-file", str(run / "config.yaml"), "--weights", str(run / "model_final.pth")]
    output = tmp_path / "out"
    run_tool(
        "predict", "--project", str(PROJECT), str(image), *weights, "--output", str(output), "--score-threshold", "0"
    )
    assert 0 < len(json.loads((output / "predictions.json").read_text())["annotations"]) <= 100


@pytest.mark.slow
def test_the_benchmark_measures_every_part() -> None:
    config = ["--config-file", str(PROJECT / "configs" / "R18_overfit_iuq.yaml"), "--size", "64x96", "--iters", "1"]
    small = [word for name, value in TINY.items() if name.startswith("MODEL.") for word in (name, value)]
    lines = run_tool("benchmark_segmenter", "--project", str(PROJECT), *config, "--instances", "2", *small).splitlines()
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    names = next(row for row in rows if "backbone" in row)
    both = next(row for row in rows if row and row[0] == "both paired")
    parts = dict(zip(names, both, strict=True))
    assert all(float(parts[name]) > 0 for name in ("backbone", "heads", "targets", "losses", "iuq"))
