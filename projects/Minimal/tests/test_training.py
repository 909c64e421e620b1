"""Minimal learns, through tools/train_net.py --project alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import adet_iuq

PROJECT = Path(__file__).parents[1]
TRAIN_NET = Path(adet_iuq.__file__).parents[1] / "tools" / "train_net.py"
SHORT = {
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.IUQ.INTER.START_ITER": 10,
    "MODEL.IUQ.INTER.RAMP_ITERS": 0,
    "DATASETS.SHAPES.SIZE": 64,
    "DATASETS.SHAPES.NUM_TRAIN": 16,
    "DATASETS.SHAPES.NUM_VAL": 2,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.STEPS": (),
    "SOLVER.MAX_ITER": 60,
    "REPORT.ENABLED": False,
}


@pytest.mark.slow
def test_short_run_learns(tmp_path: Path) -> None:
    options = {**SHORT, "DATASETS.SHAPES.ROOT": tmp_path / "cache", "OUTPUT_DIR": tmp_path}
    command = [sys.executable, str(TRAIN_NET), "--project", str(PROJECT)]
    command += ["--config-file", str(PROJECT / "configs" / "shapes_iuq.yaml")]
    command += [str(part) for pair in options.items() for part in pair]
    environment = {**os.environ, "PYTHONPATH": str(TRAIN_NET.parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-2000:]

    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    steps = [line for line in lines if "total_loss" in line]
    for name in ("loss_cls", "loss_mask", "loss_inter", "loss_equi"):
        assert all(name in step for step in steps), name
    first, last = steps[0], steps[-1]
    assert last["loss_cls"] < 0.8 * first["loss_cls"] and last["loss_mask"] < 0.9 * first["loss_mask"]
    assert first["loss_inter"] == 0 < last["loss_inter"] and last["loss_equi"] < first["loss_equi"]
    assert any("segm/AP" in line for line in lines)
