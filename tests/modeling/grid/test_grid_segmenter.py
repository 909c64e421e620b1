"""What holds for every segmenter whose queries are grid cells: SOLOv2 and SOTR."""

from typing import Any

import pytest
import torch
from torch import nn

from adet_iuq.errors import UserError
from helpers.grid_checks import (
    CASES,
    SIZES,
    GridCase,
    check_empty_batch_trains_every_parameter,
    check_sizes,
    two_scenes,
)
from helpers.scenes import discs, small_model


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> GridCase:
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case: GridCase) -> Any:
    return case.model(case.recipe)


def test_empty_batch(case: GridCase) -> None:
    check_empty_batch_trains_every_parameter(case, case.recipe)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(model: Any, name: str) -> None:
    losses = check_sizes(model, SIZES[name])
    if name == "1 x 1":
        # The pixel has its query; a quarter of it is no cell, and the dice loss of an empty mask is 1.
        assert losses["loss_ins"].item() == pytest.approx(model.loss_settings.mask_weight)


def test_norms_of_one_value(case: GridCase) -> None:
    """With a channel a group the coarsest map of up to 32 pixels, one cell, is one value a group."""
    check_sizes(case.model(case.recipe, f"MODEL.{case.section}.MASK_CHANNELS", "32"), [(32, 20)])


def test_same_sizes_do_not_mix(model: Any) -> None:
    """Images of one size have the same results together as alone."""
    inputs = [discs(64, 96, 2, seed=1), discs(64, 96, 3, seed=2) | {"height": 90, "width": 30}]
    with torch.no_grad():
        model.eval()
        for one, result in zip(inputs, model(inputs), strict=True):
            alone, joint = model([one])[0]["instances"], result["instances"]
            assert joint.image_size == (one["height"], one["width"]) and len(joint) > 0
            torch.testing.assert_close(joint.scores, alone.scores)
            assert (joint.pred_masks == alone.pred_masks).float().mean() > 0.999
        model.train()


def test_results_are_sorted_and_boxed_tightly(model: Any) -> None:
    with torch.no_grad():
        model.eval()
        found = model(two_scenes())[0]["instances"]
        model.train()
    assert 10 < len(found) <= 100 and (found.scores.diff() <= 0).all()
    assert found.pred_masks.shape == (len(found), 96, 128) and found.pred_masks.dtype == torch.bool
    for mask, box in zip(found.pred_masks, found.pred_boxes.tensor, strict=True):
        x0, y0, x1, y1 = box.long().tolist()
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        assert not mask.any() or (mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any())


def test_nothing_found_has_fields_of_the_right_shape(case: GridCase) -> None:
    model = case.model(case.recipe, f"MODEL.{case.section}.SCORE_THR", "1.0").eval()
    with torch.no_grad():
        found = model(two_scenes())[0]["instances"]
    assert len(found) == 0 and found.pred_masks.shape == (0, 96, 128) and found.pred_boxes.tensor.shape == (0, 4)


def test_training_starts_from_the_prior(model: Any) -> None:
    layers: dict[str, nn.Module] = dict(model.named_modules())
    bias = next(layer.bias for name, layer in layers.items() if name.endswith(".cate_pred"))
    assert isinstance(bias, torch.Tensor) and torch.allclose(bias, torch.tensor(-4.59512))


@pytest.mark.parametrize(
    "key,value,words",
    [
        ("INSTANCE_IN_CHANNELS", "64", "INSTANCE_IN_CHANNELS is 64"),
        ("MASK_IN_CHANNELS", "64", "MASK_IN_CHANNELS is 64"),
        ("NUM_KERNELS", "64", "NUM_KERNELS 64"),
        ("NUM_GRIDS", "[8, 6]", "NUM_GRIDS"),
        ("NORM", "BN", "NORM"),
        ("NMS_TYPE", "soft", "NMS_TYPE"),
        ("NMS_KERNEL", "box", "NMS_KERNEL"),
        ("NMS_PRE", "0", "NMS_PRE is 0"),
        ("MASK_IN_FEATURES", "['p3', 'p4', 'p5']", "strides"),
        ("INSTANCE_IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p7']", "p7"),
    ],
)
def test_wrong_options_say_what_is_wrong(case: GridCase, key: str, value: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        small_model(case.recipe, *case.small, f"MODEL.{case.section}.{key}", value)
