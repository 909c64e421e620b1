"""Folders as trainings leave them, of a small Mask2Former with random weights whose masks lie all over the picture."""

from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model

from adet_iuq.config import load_config
from helpers.golden import REPOSITORY
from helpers.scenes import SMALL, SMALL_MASK2FORMER

SIDE = 96  # pixels, of the network's input
# Random weights are certain of nothing.
THRESHOLD = "0.01"


def query_runs(folder: Path) -> tuple[Path, Path]:
    """The folders `iuq` and `base` below `folder`, the latter without a config."""
    scenes = [
        "DATASETS.TRAIN",
        "('shapes_train',)",
        "DATASETS.TEST",
        "('shapes_val',)",
        "INPUT.MIN_SIZE_TEST",
        str(SIDE),
    ]
    scenes += ["DATASETS.SHAPES.SIZE", "64", "DATASETS.SHAPES.NUM_TRAIN", "2", "DATASETS.SHAPES.NUM_VAL", "3"]
    options = [*SMALL, *SMALL_MASK2FORMER, *scenes, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5"]
    recipes = {"base": "R50_50ep.yaml", "iuq": "R50_50ep_iuq.yaml"}
    for seed, (name, recipe) in enumerate(recipes.items()):
        cfg = load_config(str(REPOSITORY / "configs" / "Mask2Former" / recipe), options).cfg
        torch.manual_seed(seed)
        weights = build_model(cfg).state_dict()
        (folder / name).mkdir(parents=True)
        torch.save({"model": weights}, folder / name / "model_final.pth")
        if name == "iuq":
            (folder / name / "config.yaml").write_text(cfg.dump())
            torch.save({"model": weights}, folder / name / "model_0000009.pth")
    return folder / "iuq", folder / "base"


def write_photo(file: Path, size: tuple[int, int], seed: int) -> Path:
    """A colourful picture of (height, width)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    cv2.imwrite(str(file), cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC))
    return file
