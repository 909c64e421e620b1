"""SOLOv2 against the published implementation: every number of tests/golden/solov2 (docs/parity/solov2.md)."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adet_iuq.modeling.grid import DICE_EPSILON, mask_nms, matrix_nms, point_nms, quarter_masks, same_class_ious
from adet_iuq.modeling.layers import dice_losses, mask_centroids
from helpers.golden import assert_close, golden_dir, load_golden
from helpers.grid_golden import build, check_can_fail, check_case, check_case_can_fail, parameter_list

pytestmark = pytest.mark.golden

BASE = "SOLOv2/R50_3x.yaml"
CASES = ("features", "losses", "targets", "inference", "inference_caps")
# The paper has no LVIS recipe with R101.
PARAMETERS: dict[str, tuple[str, list[Any]]] = {
    "R50_3x": ("R50_3x", []),
    "R101_3x": ("R101_3x", []),
    "R50_lvis": ("LVIS_R50_3x_paper", []),
    "R101_lvis": ("R101_3x", ["MODEL.SOLOV2.NUM_CLASSES", 1203]),
}


@pytest.mark.parametrize("name", CASES)
def test_solov2_equals_published(name: str) -> None:
    check_case("solov2", BASE, name)


@pytest.mark.parametrize("name", CASES)
def test_solov2_golden_can_fail(name: str) -> None:
    check_case_can_fail("solov2", BASE, name)


def overlaps(given: dict[str, Tensor]) -> Tensor:
    masks = given["matrix_nms/masks"].flatten(1)
    return same_class_ious(masks, torch.arange(len(masks)), masks.sum(1).float(), given["matrix_nms/labels"])


def small_size(given: dict[str, Tensor]) -> tuple[int, int]:
    return given["downscale/output"].shape[1], given["downscale/output"].shape[2]


def dice(given: dict[str, Tensor]) -> Tensor:
    logits = torch.logit(given["dice/probability"].double())
    index = torch.arange(len(logits))
    masks = [given["dice/target"].float()]
    return dice_losses(logits, torch.zeros_like(index), index, masks, epsilon=DICE_EPSILON)


OPERATIONS: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "point_nms/output": lambda given: point_nms(given["point_nms/input"]),
    "matrix_nms/gaussian_sigma2": lambda given: matrix_nms(
        given["matrix_nms/scores"], overlaps(given), "gaussian", 2.0
    ),
    "matrix_nms/linear": lambda given: matrix_nms(given["matrix_nms/scores"], overlaps(given), "linear", 2.0),
    "mask_nms/keep_thr0.5": lambda given: mask_nms(overlaps(given), 0.5),
    "downscale/output": lambda given: quarter_masks(given["downscale/masks"], small_size(given)),
    "center_of_mass/x": lambda given: mask_centroids(given["downscale/masks"])[:, 0],
    "center_of_mass/y": lambda given: mask_centroids(given["downscale/masks"])[:, 1],
    "dice/output": dice,
}


def compare_operations(outputs: dict[str, np.ndarray]) -> None:
    """Applies every operation to the inputs among `outputs` and compares with its results there."""
    given = {name: torch.as_tensor(value) for name, value in outputs.items()}
    for name, operation in OPERATIONS.items():
        expected = outputs[name]
        exact = expected.dtype.kind != "f" or name.startswith("point_nms")
        found = operation(given).numpy().astype(expected.dtype)
        assert_close(name, found, expected, *(("equal", 0.0) if exact else ("scale", 1e-6)))


def test_solov2_operations_equal_published() -> None:
    golden = load_golden("solov2", "ops")
    compare_operations(golden.outputs)
    inputs = {"point_nms/input", "matrix_nms/masks", "matrix_nms/labels", "matrix_nms/scores", "downscale/masks"}
    assert set(golden.outputs) == set(OPERATIONS) | inputs | {"dice/probability", "dice/target"}


def test_solov2_golden_operations_can_fail() -> None:
    check_can_fail(load_golden("solov2", "ops"), lambda _, outputs: compare_operations(outputs))


@pytest.mark.parametrize("name", PARAMETERS)
def test_solov2_parameters_equal_published(name: str) -> None:
    recipe, overrides = PARAMETERS[name]
    expected = json.loads((golden_dir("solov2") / f"params_{name}.json").read_text())
    model = build(f"SOLOv2/{recipe}.yaml", overrides)
    assert parameter_list(model) == expected
