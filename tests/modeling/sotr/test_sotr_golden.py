"""SOTR against the published implementation: every number of tests/golden/sotr (docs/parity/sotr.md)."""

import functools
import json

import numpy as np
import pytest
import torch

from helpers.golden import Golden, as_array, assert_close, fill, golden_dir, load_golden
from helpers.grid_golden import build, check_can_fail, check_case, check_case_can_fail

pytestmark = pytest.mark.golden

BASE, DEFORMABLE = "SOTR/R50.yaml", "SOTR/R101_DCN.yaml"
CASES = ("features", "losses", "inference", pytest.param("inference_caps", marks=pytest.mark.slow))
KERNELS = 2e-5  # tolerance of class logits and kernels
RECIPES = ("R50", "R101", "R101_DCN")


@pytest.mark.parametrize("name", CASES)
def test_sotr_equals_published(name: str) -> None:
    check_case("sotr", BASE, name, KERNELS)


@pytest.mark.parametrize("name", CASES)
def test_sotr_golden_can_fail(name: str) -> None:
    check_case_can_fail("sotr", BASE, name, KERNELS)


@functools.cache
def deformable_case() -> tuple[Golden, dict[str, np.ndarray]]:
    """The golden of the deformable backbone and the same maps from ours."""
    golden = load_golden("sotr", "dcn")
    model = build(DEFORMABLE, golden.meta["overrides"]).eval()
    fill(model, golden.meta["seed"], golden.meta["constants"])
    images = model.preprocess([{"image": torch.as_tensor(arrays["image"])} for arrays in golden.inputs])
    with torch.no_grad():
        features = model.backbone(images.tensor)
    return golden, {f"fpn/{name}": as_array(value[:, ::8]) for name, value in features.items()}


def compare_deformable(key: str, outputs: dict[str, np.ndarray]) -> None:
    assert_close(key, deformable_case()[1][key], outputs[key], "scale", 1e-5)


def test_sotr_deformable_backbone_equals_published() -> None:
    golden, _ = deformable_case()
    for key in golden.outputs:
        compare_deformable(key, golden.outputs)


def test_sotr_deformable_backbone_golden_can_fail() -> None:
    check_can_fail(deformable_case()[0], compare_deformable)


@pytest.mark.parametrize("recipe", RECIPES)
def test_sotr_parameters_equal_published(recipe: str) -> None:
    expected = json.loads((golden_dir("sotr") / f"params_{recipe}.json").read_text())
    model = build(f"SOTR/{recipe}.yaml", [])
    parameters = dict(model.named_parameters())
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: shape for name, shape in shapes.items() if name in parameters} == expected["parameters"]
    assert {name: shape for name, shape in shapes.items() if name not in parameters} == expected["persistent_buffers"]
    assert sorted(n for n, p in parameters.items() if not p.requires_grad) == sorted(expected["frozen_parameters"])
    assert sum(p.numel() for p in parameters.values() if p.requires_grad) == expected["num_trainable"]
