"""SOLOv2: which parts learn from which loss, options, and inputs that break careless code."""

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks
from torch.nn import functional as F

from adet_iuq.errors import UserError
from helpers.grid_checks import CASES, SMALL_SOLOV2, gradient_sizes, train_step, two_scenes
from helpers.scenes import discs, small_model

RECIPE = "SOLOv2/R50_1x.yaml"


@pytest.fixture(scope="module")
def model() -> Any:
    return CASES["solov2"].model(RECIPE)


def test_each_loss_trains_its_own_tower(model: Any) -> None:
    losses, _ = train_step(model, two_scenes())
    masks, classes = (gradient_sizes(model, losses[name]) for name in ("loss_ins", "loss_cate"))
    for sizes in (masks, classes):
        assert sizes["backbone.fpn_lateral2.weight"] > 0 and sizes["backbone.bottom_up.res3.0.conv1.weight"] > 0
    for name, size in masks.items():
        if name.startswith(("ins_head", "mask_head")):
            assert (size > 0) == (not name.startswith("ins_head.cate")), name
    for name, size in classes.items():
        if name.startswith(("ins_head", "mask_head")):
            assert (size > 0) == name.startswith("ins_head.cate"), name


def test_coordinates_go_to_the_kernels_and_the_coarsest_map_only(model: Any) -> None:
    """Resized with the map, as the published code does it on the whole map at once."""
    features = model.backbone(model.preprocess(two_scenes()).tensor)
    head = model.ins_head
    with torch.no_grad():
        maps = model.predict(features)
        for level, (entering, size) in enumerate(zip(model.instance_inputs(features), model.layout.sizes, strict=True)):
            y, x = (torch.linspace(-1, 1, n) for n in entering.shape[2:])
            ramps = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))]).expand(len(entering), -1, -1, -1)
            cells = F.interpolate(torch.cat([entering, ramps], 1), (size, size), mode="bilinear")
            kernels = head.kernel_pred(head.kernel_tower(cells))
            torch.testing.assert_close(maps.kernels[level], kernels, rtol=1e-4, atol=1e-6)
            logits = head.cate_pred(head.cate_tower(cells[:, :-2]))
            torch.testing.assert_close(maps.class_logits[level], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["DCN", "DCNv2"])
def test_deformable_towers_train(kind: str) -> None:
    dcn = ("MODEL.SOLOV2.USE_DCN_IN_INSTANCE", "True", "MODEL.SOLOV2.TYPE_DCN", kind)
    model = small_model(RECIPE, *SMALL_SOLOV2, *dcn)
    outputs = {"DCN": 18, "DCNv2": 27}[kind]
    for tower in ("cate_tower", "kernel_tower"):
        weights = model.ins_head.state_dict()
        assert weights[f"{tower}.9.offset.weight"].shape == (outputs, 32, 3, 3)
        assert weights[f"{tower}.9.conv.weight"].shape == (32, 32, 3, 3) and f"{tower}.6.offset.weight" not in weights
        assert not weights[f"{tower}.9.offset.weight"].any()  # starts as a plain convolution
    losses, _ = train_step(model, two_scenes())
    sizes = gradient_sizes(model, torch.stack(list(losses.values())).sum())
    assert all(size > 0 for name, size in sizes.items() if ".9." in name)


def test_without_norm_it_trains() -> None:
    model = small_model(RECIPE, *SMALL_SOLOV2, "MODEL.SOLOV2.NORM", "none")
    names = set(model.state_dict())
    assert {"ins_head.cate_tower.2.bias", "mask_head.conv_pred.1.weight"} <= names
    losses, _ = train_step(model, two_scenes())
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_polygons_and_bitmasks_train_alike(model: Any) -> None:
    polygons = [[np.array([10.0, 10.0, 60.0, 12.0, 50.0, 50.0])], [np.array([70.0, 30.0, 100.0, 30.0, 90.0, 90.0])]]
    drawn = BitMasks.from_polygon_masks(PolygonMasks(polygons), 96, 128)
    losses = []
    for masks in (PolygonMasks(polygons), drawn, BitMasks(drawn.tensor.to(torch.uint8))):
        one = discs(96, 128, 2, seed=1)
        one["instances"].gt_masks, one["instances"].gt_boxes = masks, drawn.get_bounding_boxes()
        losses.append(train_step(model, [one])[0])
    for name, loss in losses[0].items():
        assert loss > 0 and torch.equal(loss, losses[1][name]) and torch.equal(loss, losses[2][name])


def test_wrong_options_say_what_is_wrong() -> None:
    for overrides, words in (
        (("MODEL.SOLOV2.INSTANCE_IN_CHANNELS", "64"), "INSTANCE_IN_CHANNELS is 64.*32"),
        (("MODEL.SOLOV2.MASK_IN_CHANNELS", "64"), "MASK_IN_CHANNELS is 64.*32"),
        (("MODEL.SOLOV2.INSTANCE_CHANNELS", "40"), "40"),
        (("MODEL.SOLOV2.USE_DCN_IN_INSTANCE", "True", "MODEL.SOLOV2.TYPE_DCN", "v3"), "TYPE_DCN"),
    ):
        with pytest.raises(UserError, match=words):
            small_model(RECIPE, *SMALL_SOLOV2, *overrides)
