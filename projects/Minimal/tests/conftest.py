"""A small Minimal with fixed weights, with and without instance-unique querying."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from adet_iuq.config import import_project, load_config

PROJECT = Path(__file__).parents[1]
SMALL = [
    "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.MINIMAL.NUM_CLASSES", "3",
    "MODEL.MINIMAL.SCORE_THRESH", "0.0",
    "MODEL.IUQ.INTER.START_ITER", "0",
    "MODEL.IUQ.INTER.RAMP_ITERS", "0",
]  # fmt: skip


def small_model(config: str) -> Any:
    project = import_project(str(PROJECT))
    torch.manual_seed(0)
    return build_model(load_config(str(PROJECT / "configs" / config), SMALL, project.add_config).cfg)


@pytest.fixture
def model() -> Any:
    return small_model("shapes_iuq.yaml")


@pytest.fixture
def base(model: Any) -> Any:
    """The base segmenter with the weights of the other, and no more."""
    base = small_model("shapes.yaml")
    base.load_state_dict(model.state_dict(), strict=True)
    return base
