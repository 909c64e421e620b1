"""The benchmark measures every setting of a segmenter, and its numbers fit together."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.grid_checks import grid_options

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.IUQ.MEMORY.CAPACITY", "500"]
DETECT = ["MODEL.FCOS.INFERENCE_TH_TEST", "0.0", "MODEL.FCOS.PRE_NMS_TOPK_TEST", "50"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/benchmark_segmenter.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def table(lines: list[str], title: str) -> dict[str, dict[str, str]]:
    """{setting: {column: cell}} of the table under `title`; columns are separated by two blanks or more."""
    start = next(number for number, line in enumerate(lines) if line.startswith(title))
    rows = []
    for line in lines[start + 1 :]:
        if "  " not in line:
            break
        rows.append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


@pytest.mark.slow
def test_tables() -> None:
    arguments = ["--config-file", "configs/CondInst/R50_1x_iuq.yaml", "--size", "64x96", "--iters", "1"]
    probe = ["TEST.QUERY_PROBE.ENABLED", "True"]  # as the studies have it; the benchmark evaluates nothing
    result = run(*arguments, "--instances", "2", *SMALL, *DETECT, *probe)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    training = table(lines, "training step, 2 x 64 x 96, 2 instances an image")
    assert list(training) == ["off", "inter", "equi paired", "both paired", "equi extra", "both extra"]
    counts = {setting: (int(row["images"]), int(row["views"])) for setting, row in training.items()}
    assert counts == {
        "off": (2, 2),
        "inter": (2, 2),
        "equi paired": (1, 2),
        "both paired": (1, 2),
        "equi extra": (2, 4),
        "both extra": (2, 4),
    }
    assert training["off"]["ratio"] == "1.00"
    for setting, row in training.items():
        assert (float(row["iuq"]) > 0) == (setting != "off")
        names = ("backbone", "heads", "targets", "losses", "iuq", "optimizer", "other")
        assert sum(float(row[name]) for name in names) == pytest.approx(float(row["step"]), abs=0.005)
        share = (float(row["targets"]) + float(row["losses"])) / float(row["step"])
        assert float(row["targets+losses"].removesuffix(" %")) == pytest.approx(100 * share, abs=2)
        assert float(row["peak MB"]) > 0
    inference = table(lines, "inference, 64 x 96")
    assert list(inference) == ["off", "both paired"]
    for row in inference.values():
        assert row["found"] == inference["off"]["found"] and int(row["found"]) > 0
        parts = ("backbone", "heads", "nms", "postprocess", "other")
        assert sum(float(row[name]) for name in parts) == pytest.approx(float(row["image"]), abs=0.005)


SOLOV2 = [*grid_options("SOLOV2"), "MODEL.SOLOV2.SCORE_THR", "0.0", "MODEL.SOLOV2.UPDATE_THR", "0.0"]
SOTR = [*grid_options("SOTR"), "MODEL.SOTR.SCORE_THR", "0.0", "MODEL.SOTR.UPDATE_THR", "0.0"]
MASK2FORMER = [
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.MASK_DIM", "32",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1", "MODEL.MASK_FORMER.HIDDEN_DIM", "32",
    "MODEL.MASK_FORMER.DEC_LAYERS", "3", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "10",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "64", "SOLVER.AMP.DTYPE", "bfloat16",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe,options",
    [("SOLOv2/R50_1x_iuq", SOLOV2), ("SOTR/R50_iuq", SOTR), ("Mask2Former/R50_50ep_iuq", MASK2FORMER)],
    ids=["solov2", "sotr", "mask2former"],
)
def test_tables_of_other_segmenters(recipe: str, options: list[str]) -> None:
    arguments = ["--config-file", f"configs/{recipe}.yaml", "--size", "64x96", "--iters", "1", "--instances", "2"]
    result = run(*arguments, "--setting", "both paired", *SMALL, *options)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    training, inference = table(lines, "training step"), table(lines, "inference, 64 x 96")
    for row in training.values():
        assert all(float(row[name]) > 0 for name in ("backbone", "heads", "targets", "losses"))
    assert float(training["both paired"]["iuq"]) > 0
    assert int(inference["off"]["found"]) > 0 and list(inference) == ["off", "both paired"]


def test_mistakes_are_explained() -> None:
    result = run("--config-file", "configs/CondInst/R50_1x_iuq.yaml", "--batch", "3", "--only", "training", *SMALL)
    assert result.returncode == 2 and "does not give every process whole pairs" in result.stderr
