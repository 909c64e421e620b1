"""What makes a study's comparisons paired: arms of a seed begin with the same weights and see the same images."""

import itertools
from pathlib import Path

import pytest
import torch

from adet_iuq.data import build_train_loader
from adet_iuq.engine import Trainer, argument_parser, setup
from adet_iuq.engine.meta_arch import find_segmenter, unwrap
from adet_iuq.studies import load_study
from helpers.faults import TINY
from helpers.golden import REPOSITORY

EXAMPLE = REPOSITORY / "configs/Studies/table3_shapes.yaml"


VIEWS_AS_BATCH = {"augmentation", "equi", "both"}  # half of their batch of four are views of the other half
STEPS = 3


@pytest.fixture
def tiny_arms(tmp_path: Path) -> dict[str, list[str]]:
    """Command lines of the example's arms, made tiny."""
    study = load_study(EXAMPLE)
    return {
        run.arm: ["--config-file", str(study.config), *run.overrides, *TINY[2:], "SEED", "3", "SOLVER.IMS_PER_BATCH", "4",
                  "OUTPUT_DIR", str(tmp_path / run.arm)]
        for run in study.runs() if run.seed == 1
    }  # fmt: skip


def common_start(words: list[str]) -> tuple[dict[str, torch.Tensor], list[int]]:
    """A training's initial weights, and the ids of its first images."""
    cfg = setup(argument_parser().parse_args(words))
    weights = unwrap(Trainer(cfg).model).state_dict()
    loader = build_train_loader(cfg, images_per_batch=find_segmenter(cfg).images_per_batch(cfg))
    return weights, [sample["image_id"] for batch in itertools.islice(loader, STEPS) for sample in batch]


def test_arms_of_a_seed_share_weights_and_data_order(tiny_arms: dict[str, list[str]]) -> None:
    weights, images = common_start(tiny_arms["base"])
    assert len(tiny_arms) == 5 and len(images) == 4 * STEPS and len(set(images)) > 5
    for arm, words in tiny_arms.items():
        own, ids = common_start(words)
        assert ids == images[: (2 if arm in VIEWS_AS_BATCH else 4) * STEPS], arm
        assert own.keys() == weights.keys() and all(torch.equal(own[name], weights[name]) for name in own), arm
    other = common_start([*tiny_arms["base"], "SEED", "4"])
    assert other[1] != images and any(not torch.equal(other[0][name], weights[name]) for name in weights)
