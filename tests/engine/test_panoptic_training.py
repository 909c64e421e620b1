"""Mask2Former with Swin on the panoptic scenes: trains, resumes exactly, and is measured; base and instance-unique."""

import json
from pathlib import Path

import pytest
import torch

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.engine import argument_parser
from helpers.golden import REPOSITORY
from helpers.toy_segmenter import train

OPTS = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "SEED", "3",
    "DATASETS.TRAIN", "('shapes_panoptic_train',)", "DATASETS.TEST", "('shapes_panoptic_val',)",
    "DATASETS.SHAPES.SIZE", "64", "DATASETS.SHAPES.NUM_TRAIN", "8", "DATASETS.SHAPES.NUM_VAL", "2",
    "INPUT.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
    "MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", "16",
    "MODEL.SWIN.DEPTHS", "[1, 2, 1, 1]", "MODEL.SWIN.NUM_HEADS", "[1, 2, 4, 8]",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "MODEL.SEM_SEG_HEAD.MASK_DIM", "32",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "6",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1",
    "MODEL.MASK_FORMER.HIDDEN_DIM", "32", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "20",
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD", "64", "MODEL.MASK_FORMER.DEC_LAYERS", "3",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "128", "MODEL.IUQ.MEMORY.CAPACITY", "500",
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.0",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.STEPS", "()", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2",
    "SOLVER.AMP.DTYPE", "bfloat16", "TEST.EVAL_PERIOD", "0", "REPORT.ENABLED", "False",
]  # fmt: skip


def run(folder: Path, meta_arch: str, *, resume: bool = False) -> dict[str, dict[str, float]]:
    config = REPOSITORY / "configs/Mask2Former/R50_panoptic_50ep.yaml"
    opts = [*OPTS, "MODEL.META_ARCHITECTURE", meta_arch, "OUTPUT_DIR", str(folder)]
    arguments = ["--config-file", str(config), *(["--resume"] if resume else []), *opts]
    return train(argument_parser().parse_args(arguments))


@pytest.mark.parametrize("meta_arch", ["MaskFormer", "MaskFormerIUQ"])
def test_a_resumed_run_is_the_unbroken_one_and_is_measured(tmp_path: Path, meta_arch: str) -> None:
    results = run(tmp_path, meta_arch)
    assert 0 <= results["panoptic_seg"]["PQ"] <= 100 and "PQ-background" in results["panoptic_seg"]
    assert "AP50" in results["segm"] and "bbox" not in results and 0 < results["sem_seg"]["pACC"] <= 100
    assert json.loads((tmp_path / "model_best.json").read_text())["metric"] == "panoptic_seg/PQ"
    unbroken = torch.load(tmp_path / "model_final.pth")
    first = torch.load(tmp_path / "model_0000001.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    assert repr(run(tmp_path, meta_arch, resume=True)) == repr(results)
    resumed = torch.load(tmp_path / "model_final.pth")
    for name, tensor in unbroken["model"].items():
        assert torch.equal(resumed["model"][name], tensor), name
    moved = [name for name, tensor in unbroken["model"].items() if not torch.equal(first["model"][name], tensor)]
    assert any(name.startswith("backbone.layers.3.") for name in moved)
    if meta_arch == "MaskFormerIUQ":
        memories = [end["trainer"]["iuq"] for end in (resumed, unbroken)]
        assert memories[0] and all(torch.equal(memories[0][name], tensor) for name, tensor in memories[1].items())
