"""A small SOLQ with fixed weights, with and without instance-unique querying."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from adet_iuq.config import import_project, load_config

PROJECT = Path(__file__).parents[1]
SMALL = [
    "MODEL.DEVICE", "cpu",
    "MODEL.SOLQ.NUM_CLASSES", "3",
    "MODEL.SOLQ.HIDDEN_DIM", "32",
    "MODEL.SOLQ.NHEADS", "4",
    "MODEL.SOLQ.DIM_FEEDFORWARD", "64",
    "MODEL.SOLQ.ENC_LAYERS", "1",
    "MODEL.SOLQ.DEC_LAYERS", "2",
    "MODEL.SOLQ.NUM_QUERIES", "10",
    "MODEL.SOLQ.VECTOR_HIDDEN_DIM", "32",
    "MODEL.SOLQ.PIXEL_DIM", "16",
    "MODEL.IUQ.INTER.START_ITER", "0",
    "MODEL.IUQ.INTER.RAMP_ITERS", "0",
]  # fmt: skip


def published_model(recipe: str, *overrides: Any) -> Any:
    """The model of a published recipe: R50, R101, SwinS, SwinB or SwinL."""
    path = str(PROJECT / "configs" / f"{recipe}_50ep.yaml")
    add_config = import_project(str(PROJECT)).add_config
    return build_model(load_config(path, [*overrides, "MODEL.DEVICE", "cpu"], add_config).cfg)


def small_model(meta_architecture: str, *more: str) -> Any:
    project = import_project(str(PROJECT))
    torch.manual_seed(0)
    options = [*SMALL, "MODEL.META_ARCHITECTURE", meta_architecture, *more]
    model = build_model(load_config(str(PROJECT / "configs" / "R18_overfit_iuq.yaml"), options, project.add_config).cfg)
    # BatchNorm that sees other images gives other features; views and originals are compared here.
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    return model


def with_weights_of(meta_architecture: str, model: Any, *more: str) -> Any:
    """Another meta-architecture that holds the same weights, as far as it has them."""
    other = small_model(meta_architecture, *more)
    missing, surplus = other.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all(name.startswith("iuq.") for name in surplus)
    return other


@pytest.fixture
def model() -> Any:
    return small_model("SOLQIUQ")


@pytest.fixture
def control(model: Any) -> Any:
    """The pixel heads and their intra-image term, without the two losses."""
    return with_weights_of("PixelSOLQ", model)


@pytest.fixture
def base(model: Any) -> Any:
    return with_weights_of("SOLQ", model)
