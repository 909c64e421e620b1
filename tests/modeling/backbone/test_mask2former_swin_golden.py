"""Swin against the published backbone, with every kind of padding. (Names, and Swin-S: the golden test of Mask2Former.)"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from adet_iuq.config import load_config
from adet_iuq.modeling.backbone import D2SwinTransformer
from helpers.golden import DEVICE, REPOSITORY, Golden, as_array, assert_close, fill, golden_dir, load_golden

pytestmark = pytest.mark.golden

FEATURES = 1e-4  # docs/parity/mask2former.md, "How near it is"
RECIPES = {"COCO instance Swin-B 384": "SwinB_50ep"}


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden("mask2former", "swin_window12")


@pytest.fixture(scope="module")
def maps(golden: Golden) -> dict[str, np.ndarray]:
    recipe = REPOSITORY / f"configs/Mask2Former/{RECIPES[golden.meta['base']]}.yaml"
    backbone = D2SwinTransformer(load_config(str(recipe), golden.meta["opts"]).cfg).eval()
    fill(backbone, golden.meta["seed"], golden.meta.get("constants", {}))
    backbone.to(DEVICE)
    x = np.load(golden_dir("mask2former") / "golden_swin_window12.npz")["in/x"]
    with torch.no_grad():
        return {name: as_array(value) for name, value in backbone(torch.from_numpy(x).to(DEVICE)).items()}


def test_features(golden: Golden, maps: dict[str, np.ndarray]) -> None:
    assert set(maps) == set(golden.outputs)
    for name, expected in golden.outputs.items():
        assert_close(name, maps[name], expected, "scale", FEATURES)


@pytest.mark.parametrize("change", [lambda x: 1.01 * x, lambda x: np.roll(x, 1, axis=-1)])
def test_golden_can_fail(
    golden: Golden, maps: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray]
) -> None:
    for name, expected in golden.outputs.items():
        with pytest.raises(AssertionError):
            assert_close(name, maps[name], change(expected), "scale", FEATURES)
