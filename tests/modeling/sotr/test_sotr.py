"""SOTR: which parts learn from which loss, options, and inputs that break careless code."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from adet_iuq.config import load_config
from adet_iuq.errors import UserError
from adet_iuq.modeling.sotr import SOTR
from helpers.grid_checks import SMALL_SOTR, gradient_sizes, quieten, train_step, two_scenes
from helpers.scenes import small_model

RECIPE = "SOTR/R50.yaml"
TRANSFORMER = "cate_head.transformer.layers.blocks."


@pytest.fixture(scope="module")
def model() -> Any:
    model = small_model(RECIPE, *SMALL_SOTR)
    assert type(model) is SOTR
    quieten(model)
    return model


def gradients_of(model: Any) -> dict[str, dict[str, float]]:
    losses, _ = train_step(model, two_scenes())
    return {name: gradient_sizes(model, loss) for name, loss in losses.items()}


def test_at_the_start_the_losses_move_the_gates_and_all_around_the_transformer(model: Any) -> None:
    gradients = gradients_of(model)
    for sizes in gradients.values():
        for name, size in sizes.items():
            if name.startswith(TRANSFORMER):
                assert (size > 0) == name.endswith(".g"), name
        assert sizes["backbone.fpn_lateral2.weight"] > 0 and sizes["backbone.bottom_up.res3.0.conv1.weight"] > 0
    masks, classes = gradients["loss_ins"], gradients["loss_cate"]
    assert masks["cate_head.kernel_pred.weight"] > 0 and masks["mask_head.conv_pred.0.weight"] > 0
    assert classes["cate_head.cate_pred.weight"] > 0
    assert masks["cate_head.cate_pred.weight"] == classes["cate_head.kernel_pred.weight"] == 0
    assert all(size == 0 for name, size in classes.items() if name.startswith("mask_head"))


def test_the_mask_branch_reads_the_transformed_coarsest_map(model: Any) -> None:
    features = model.backbone(model.preprocess(two_scenes()).tensor)
    gates = [p for name, p in model.named_parameters() if name.startswith(TRANSFORMER) and name.endswith(".g")]
    with torch.no_grad():
        before = model.predict(features).features
        finer = [features[name] for name in ("p2", "p3", "p4")]
        torch.testing.assert_close(before, model.mask_head([*finer, features["p5"]]))  # the identity as yet
        for gate in gates:
            gate.fill_(0.1)
        after = model.predict(features).features
        expected = model.mask_head([*finer, model.cate_head.transformer(features["p5"])])
        for gate in gates:
            gate.zero_()
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, expected)


def test_cells_are_read_from_the_resized_map(model: Any) -> None:
    """Class logits and kernels cell by cell from the transformer's output, which here is its input."""
    features = model.backbone(model.preprocess(two_scenes()).tensor)
    with torch.no_grad():
        maps = model.predict(features)
        for level, inputs in enumerate(model.instance_inputs(features)):
            size = model.layout.sizes[level]
            cells = F.interpolate(inputs, (size, size), mode="bilinear", align_corners=False)
            for row, column in ((0, 0), (size - 1, 0), (size // 2, size - 1)):
                cell = cells[:, :, row, column]
                for maps_of, layer in (
                    (maps.class_logits, model.cate_head.cate_pred),
                    (maps.kernels, model.cate_head.kernel_pred),
                ):
                    found = maps_of[level][:, :, row, column]
                    torch.testing.assert_close(found, layer(cell), rtol=1e-5, atol=1e-5 * cell.abs().max().item())


def test_depth_heads_and_width_of_the_transformer_are_keys() -> None:
    narrow = (
        "MODEL.FPN.OUT_CHANNELS",
        "64",
        "MODEL.SOTR.INSTANCE_IN_CHANNELS",
        "64",
        "MODEL.SOTR.MASK_IN_CHANNELS",
        "64",
    )
    keys = ("MODEL.SOTR.TRANSFORMER_DEPTH", "3", "MODEL.SOTR.TRANSFORMER_HEADS", "4")
    model = small_model(RECIPE, *SMALL_SOTR, *narrow, *keys)
    blocks = model.cate_head.transformer.layers.blocks
    assert len(blocks) == 2 * 3  # pairs of attention and convolutions
    attention = blocks[0][0].fn.fn
    assert attention.heads == 4 and attention.to_q.weight.shape == (64, 64)
    losses, _ = train_step(model, two_scenes())
    assert all(loss.isfinite() for loss in losses.values())


def test_wrong_options_say_what_is_wrong() -> None:
    for overrides, words in (
        (("MODEL.SOTR.INSTANCE_IN_CHANNELS", "128"), "INSTANCE_IN_CHANNELS is 128 and MASK_IN_CHANNELS is 256"),
        (("MODEL.SOTR.TRANSFORMER_HEADS", "7"), "HEADS is 7.*256 channels"),
        (("MODEL.SOTR.TRANSFORMER_DEPTH", "0"), "TRANSFORMER_DEPTH 0"),
        (("MODEL.FPN.OUT_CHANNELS", "128"), "128"),
    ):
        with pytest.raises(UserError, match=words):
            small_model(RECIPE, *SMALL_SOTR, *overrides)


def test_published_keys_without_effect_are_accepted() -> None:
    ignored = ("INSTANCE_CHANNELS", "NUM_INSTANCE_CONVS", "USE_DCN_IN_INSTANCE", "TYPE_DCN", "RESIZE_INPUT_FACTOR")
    options = [word for key in ignored for word in (f"MODEL.SOTR.{key}", "1")]
    cfg = load_config(None, [*options, "MODEL.SOTR.USE_COORD_CONV", "True"]).cfg
    assert not {*ignored, "USE_COORD_CONV"} & set(cfg.MODEL.SOTR)
