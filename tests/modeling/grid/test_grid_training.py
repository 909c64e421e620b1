"""SOLOv2IUQ and SOTRIUQ through the trainer on LVIS-format scenes: trained, resumed exactly, measured by LVIS's metrics."""

import json
from pathlib import Path

import pytest
import torch

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import get_cfg
from adet_iuq.engine import argument_parser
from helpers.golden import REPOSITORY
from helpers.grid_checks import AT_ONCE, SMALL_SOLOV2, SMALL_SOTR
from helpers.lvis_scenes import FREQUENCIES, lvis_content
from helpers.toy_segmenter import metrics, train

OPTS = (
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "SEED", "3", "MODEL.BACKBONE.FREEZE_AT", "0",
    "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.IUQ.MEMORY.CAPACITY", "500",
    "INPUT.MIN_SIZE_TRAIN", "(64, 64)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
    "REPORT.ENABLED", "False",
    "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.5",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.IMS_PER_PROCESS", "0", "SOLVER.STEPS", "()", "SOLVER.MAX_ITER", "4",
    "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe,section,small",
    [("SOLOv2/R50_1x_iuq", "SOLOV2", SMALL_SOLOV2), ("SOTR/R50_iuq", "SOTR", SMALL_SOTR)],
    ids=["solov2", "sotr"],
)
def test_a_resumed_run_is_the_unbroken_one_and_is_measured(
    recipe: str, section: str, small: tuple[str, ...], tmp_path: Path
) -> None:
    cfg = get_cfg()
    cfg.DATASETS.SHAPES.ROOT = str(tmp_path)
    cfg.DATASETS.SHAPES.SIZE = 64
    cfg.DATASETS.SHAPES.NUM_VAL = 8
    content, images = lvis_content(cfg, "val")
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    name = f"lvis_scenes_{section}"
    data = (
        "DATASETS.REGISTER", str([[name, str(tmp_path / "lvis.json"), str(images)]]),
        "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)",
        f"MODEL.{section}.NUM_CLASSES", str(len(FREQUENCIES)), f"MODEL.{section}.SCORE_THR", "0.0",
        f"MODEL.{section}.UPDATE_THR", "0.0", "OUTPUT_DIR", str(tmp_path / "run"),
    )  # fmt: skip
    command = ["--config-file", str(REPOSITORY / f"configs/{recipe}.yaml"), *small, *AT_ONCE, *OPTS, *data]
    results = train(argument_parser().parse_args(command))
    assert {"AP", "APr", "APc", "APf"} <= set(results["segm"])
    losses, unbroken = metrics(tmp_path / "run"), torch.load(tmp_path / "run/model_final.pth")
    assert list(losses) == [0, 1, 2, 3, 4]  # the last line holds the metrics
    assert all(float(losses[3][f"loss_{kind}"]) > 0 for kind in ("inter", "equi", "ins", "cate"))
    (tmp_path / "run/last_checkpoint").write_text("model_0000001.pth")
    assert repr(train(argument_parser().parse_args(["--resume", *command]))) == repr(results)
    assert metrics(tmp_path / "run") == losses
    resumed = torch.load(tmp_path / "run/model_final.pth")
    for kind in (lambda end: end["model"], lambda end: end["trainer"]["iuq"]):
        assert kind(resumed).keys() == kind(unbroken).keys()
        assert all(torch.equal(kind(resumed)[key], tensor) for key, tensor in kind(unbroken).items())
