"""SparseInst and SparseInstIUQ through the trainer and the tools: trained, resumed exactly, measured, predicted with."""

import json
from pathlib import Path

import pytest
import torch

from adet_iuq.engine import argument_parser
from helpers.tools import run_tool
from helpers.toy_segmenter import metrics, train
from projects.SparseInst.tests.conftest import PROJECT, SMALL

OPTIONS = (
    *SMALL[:-4], "MODEL.SPARSE_INST.DECODER.NUM_CLASSES", "5", "SEED", "3", "MODEL.RESNETS.NORM", "BN",
    "MODEL.IUQ.INTER.START_ITER", "1", "MODEL.IUQ.INTER.RAMP_ITERS", "0", "MODEL.IUQ.MEMORY.CAPACITY", "500",
    "DATASETS.TRAIN", "('shapes_train',)", "DATASETS.TEST", "('shapes_val',)",
    "DATASETS.SHAPES.SIZE", "64", "DATASETS.SHAPES.NUM_TRAIN", "8", "DATASETS.SHAPES.NUM_VAL", "2",
    "INPUT.MIN_SIZE_TRAIN", "(64, 96)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
    "REPORT.ENABLED", "False",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.IMS_PER_PROCESS", "0", "SOLVER.STEPS", "()", "SOLVER.MAX_ITER", "4",
    "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0",
)  # fmt: skip


def arguments(recipe: str, folder: Path) -> list[str]:
    own = ["DATASETS.SHAPES.ROOT", str(folder / "cache"), "OUTPUT_DIR", str(folder / "run")]
    config = str(PROJECT / "configs" / f"{recipe}.yaml")
    return ["--project", str(PROJECT), "--config-file", config, *OPTIONS, *own]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["R50_giam", "R50_giam_iuq"])
def test_a_resumed_run_is_the_unbroken_one_and_its_weights_predict(recipe: str, tmp_path: Path) -> None:
    words = arguments(recipe, tmp_path)
    results = train(argument_parser().parse_args(words))
    assert {"bbox", "segm"} == set(results)
    losses, unbroken = metrics(tmp_path / "run"), torch.load(tmp_path / "run/model_final.pth")
    own = {"loss_ce", "loss_mask", "loss_dice", "loss_objectness"}
    wanted = own | ({"loss_inter", "loss_equi"} if recipe.endswith("_iuq") else set())
    assert {name for name in losses[3] if name.startswith("loss_")} == wanted
    assert all(float(losses[3][name]) > 0 for name in wanted)
    (tmp_path / "run/last_checkpoint").write_text("model_0000001.pth")
    assert repr(train(argument_parser().parse_args(["--resume", *words]))) == repr(results)
    assert metrics(tmp_path / "run") == losses
    resumed = torch.load(tmp_path / "run/model_final.pth")["model"]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken["model"].items())

    image = next((tmp_path / "cache").rglob("*.png"))
    model = ["--config-file", str(tmp_path / "run/config.yaml"), "--weights", str(tmp_path / "run/model_final.pth")]
    run_tool(
        "predict",
        "--project",
        str(PROJECT),
        str(image),
        *model,
        "--output",
        str(tmp_path / "out"),
        "--score-threshold",
        "0",
    )
    found = json.loads((tmp_path / "out/predictions.json").read_text())["annotations"]
    assert 0 < len(found) <= 20 and all(set(one["segmentation"]) == {"size", "counts"} for one in found)


@pytest.mark.slow
def test_the_benchmark_measures_every_part() -> None:
    words = ["--project", str(PROJECT), "--config-file", str(PROJECT / "configs/R50_giam_iuq.yaml"), "--size", "64x96"]
    small = [*SMALL, "MODEL.IUQ.MEMORY.CAPACITY", "500", "MODEL.SPARSE_INST.CLS_THRESHOLD", "0.0"]
    lines = run_tool("benchmark_segmenter", *words, "--iters", "1", "--instances", "2", *small).splitlines()
    training = next(number for number, line in enumerate(lines) if line.startswith("training step"))
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in lines[training + 1 :]]
    assert [row[0].strip() for row in rows[1:7]] == [
        "off", "inter", "equi paired", "both paired", "equi extra", "both extra"
    ]  # fmt: skip
    parts = dict(zip([cell.strip() for cell in rows[0]], rows[4], strict=True))
    assert all(float(parts[name]) > 0 for name in ("backbone", "heads", "targets", "losses", "iuq"))
    inference = next(number for number, line in enumerate(lines) if line.startswith("inference"))
    assert [line.split()[0] for line in lines[inference + 2 : inference + 4]] == ["off", "both"]
