"""Mosaics and measurements of queries by two gloo processes give what one process gives. Also the processes' script."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import comm

from adet_iuq.engine import Trainer
from helpers.gloo import main, run_ranks
from helpers.scenes import small_cfg

OPTIONS = (
    "DATASETS.TRAIN", "()", "DATASETS.TEST", "('shapes_val',)", "DATASETS.SHAPES.SIZE", "64",
    "DATASETS.SHAPES.NUM_VAL", "6", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
    "MODEL.FCOS.INFERENCE_TH_TEST", "0.0", "MODEL.FCOS.NUM_CLASSES", "5", "MODEL.FCOS.POST_NMS_TOPK_TEST", "30",
    "MODEL.REDUCE_NORMALIZER", "True", "TEST.MOSAIC.ENABLED", "True",
    "TEST.MOSAIC.SCORE", "0.0", "TEST.QUERY_PROBE.ENABLED", "True", "TEST.QUERY_PROBE.IMAGES", "3",
)  # fmt: skip


def evaluate(output: Path) -> dict[str, Any]:
    """A CondInst with random weights on six scenes: two mosaics, the probe a collective call in each pass."""
    cfg = small_cfg("CondInst/R50_1x_iuq.yaml", *OPTIONS, "OUTPUT_DIR", str(output))
    torch.manual_seed(0)
    Trainer.test(cfg, build_model(cfg).eval())
    if not comm.is_main_process():
        return {}
    results: dict[str, Any] = json.loads((output / "results.json").read_text())
    return results


def worker(rank: int, ranks: int, folder: Path, output: str) -> dict[str, Any]:
    """What each process does."""
    return evaluate(Path(output))


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    two = run_ranks(__file__, 2, tmp_path, str(tmp_path / "two"))[0]
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "another"))
    one = evaluate(tmp_path / "one")
    assert one["shapes_val_mosaic"]["mosaic"]["detections"] > 100
    assert 0 < one["shapes_val_mosaic"]["mosaic"]["leak_rate"] < 100
    for name, tasks in one.items():
        for task, values in tasks.items():
            assert two[name][task] == pytest.approx(values, abs=1e-4, nan_ok=True), (name, task)
    assert list(one["shapes_val"]) == ["bbox", "segm", "queries"] and one["shapes_val"]["queries"]["images"] == 3


if __name__ == "__main__":
    main(worker)
