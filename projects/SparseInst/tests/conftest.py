"""A small SparseInst with fixed weights, with and without instance-unique querying."""

from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from adet_iuq.config import import_project, load_config
from helpers.golden import REPOSITORY

PROJECT = REPOSITORY / "projects" / "SparseInst"
SMALL = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.RESNETS.DEPTH", "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.SPARSE_INST.ENCODER.NUM_CHANNELS", "32",
    "MODEL.SPARSE_INST.DECODER.NUM_CLASSES", "3",
    "MODEL.SPARSE_INST.DECODER.NUM_MASKS", "20",
    "MODEL.SPARSE_INST.DECODER.KERNEL_DIM", "16",
    "MODEL.SPARSE_INST.DECODER.INST.DIM", "32",
    "MODEL.SPARSE_INST.DECODER.INST.CONVS", "1",
    "MODEL.SPARSE_INST.DECODER.MASK.DIM", "32",
    "MODEL.SPARSE_INST.DECODER.MASK.CONVS", "1",
    "MODEL.IUQ.INTER.START_ITER", "0",
    "MODEL.IUQ.INTER.RAMP_ITERS", "0",
]  # fmt: skip


def built(recipe: str, overrides: list[Any]) -> Any:
    """The model of a recipe below the project's configs/."""
    add_config = import_project(str(PROJECT)).add_config
    return build_model(load_config(str(PROJECT / "configs" / f"{recipe}.yaml"), overrides, add_config).cfg)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return built("R50_giam_iuq", SMALL)


@pytest.fixture
def base(model: Any) -> Any:
    """The base segmenter with the weights of the other, and no more."""
    base = built("R50_giam", SMALL)
    base.load_state_dict(model.state_dict(), strict=True)
    return base
