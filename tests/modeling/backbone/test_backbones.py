"""Pyramids over detectron2's and timm's networks."""

from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import D2SwinTransformer, TimmBackbone
from helpers.grid_checks import grid_options
from helpers.scenes import SMALL_MASK2FORMER, discs, small_model

OPTIONS = {
    "pretrained": False, "freeze_at": 0, "norm_frozen": False, "checkpointing": False, "drop_path_rate": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "efficientnet_b0"])
def test_timm_levels_have_the_strides_they_claim(name: str) -> None:
    backbone = TimmBackbone(name=name, **OPTIONS)
    x = torch.rand(2, 3, 64, 96)
    maps = backbone(x)
    assert list(maps) == ["res2", "res3", "res4", "res5"]
    for level, shape in backbone.output_shape().items():
        assert maps[level].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_timm_freezing_stops_at_the_level_named(name: str, freeze_at: int) -> None:
    backbone = TimmBackbone(name=name, **{**OPTIONS, "freeze_at": freeze_at})
    parameters = list(backbone.parameters())
    trained = [p.requires_grad for p in parameters]
    assert trained == sorted(trained)  # frozen ones first
    if freeze_at in (0, 5):
        assert all(trained) if freeze_at == 0 else sum(trained) < 3
        return
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert maps["res2"].requires_grad == (freeze_at < 2)
    assert maps["res3"].requires_grad


def test_timm_frozen_norms_keep_their_statistics() -> None:
    backbone = TimmBackbone(name="resnet18", **{**OPTIONS, "norm_frozen": True}).train()
    before = backbone.model.bn1.running_mean.clone()
    backbone(torch.rand(2, 3, 64, 64))
    assert torch.equal(before, backbone.model.bn1.running_mean)
    assert not backbone.model.bn1.weight.requires_grad and backbone.model.conv1.weight.requires_grad


def test_timm_checkpointing_gives_the_same_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = TimmBackbone(name="convnext_atto", **{**OPTIONS, "checkpointing": checkpointing}).train()
        torch.manual_seed(1)
        backbone(torch.rand(1, 3, 64, 64))["res5"].square().mean().backward()
        gradients.append(next(backbone.parameters()).grad)
    torch.testing.assert_close(*gradients)


def test_unknown_timm_model_suggests_names() -> None:
    with pytest.raises(UserError, match=r"resnet51.*Did you mean.*resnet5"):
        TimmBackbone(name="resnet51", **OPTIONS)
    with pytest.raises(UserError, match="strides"):
        TimmBackbone(name="vit_tiny_patch16_224", **OPTIONS)
    with pytest.raises(UserError, match="FREEZE_AT"):
        TimmBackbone(name="resnet18", **{**OPTIONS, "freeze_at": 7})


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_condinst_trains_and_detects_on_a_timm_backbone(name: str) -> None:
    backbone = ("MODEL.BACKBONE.NAME", "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NAME", name)
    model = small_model("CondInst/R50_1x.yaml", *backbone, "MODEL.FCOS.INFERENCE_TH_TEST", "0.0")
    losses = model([discs(64, 96, 2, seed=1)])
    torch.stack(list(losses.values())).sum().backward()
    assert model.backbone.bottom_up.model is not None and torch.isfinite(losses["loss_mask"])
    with torch.no_grad():
        assert len(model.eval()([discs(64, 96, 2, seed=1)])[0]["instances"]) > 0


RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "CondInst/R50_1x_iuq.yaml": ("build_fcos_{}_fpn_backbone", ()),
    "SOLOv2/R50_1x_iuq.yaml": ("build_{}_fpn_backbone", grid_options("SOLOV2")),
    "SOTR/R50_iuq.yaml": ("build_{}_fpn_backbone", grid_options("SOTR")),
    "Mask2Former/R50_50ep_iuq.yaml": ("build_timm_backbone", tuple(SMALL_MASK2FORMER)),
}


def train_once(model: Any) -> None:
    with EventStorage():
        losses = model([discs(64, 96, 2, seed=1), discs(96, 64, 2, seed=2)])
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_segmenter_trains_on_a_timm_backbone_with_its_options(recipe: str) -> None:
    """Frozen up to res2, activations recomputed, branches dropped."""
    name, options = RECIPES[recipe]
    model = small_model(
        recipe, *options, "MODEL.BACKBONE.NAME", name.format("timm"), "MODEL.TIMM.NAME", "convnext_atto",
        "MODEL.TIMM.FREEZE_AT", "2", "MODEL.TIMM.CHECKPOINTING", "True", "MODEL.TIMM.DROP_PATH_RATE", "0.3",
    )  # fmt: skip
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
    assert isinstance(bottom_up, TimmBackbone) and any(type(one).__name__ == "DropPath" for one in bottom_up.modules())
    train_once(model)
    got = {name.split(".")[1]: parameter.grad is not None for name, parameter in bottom_up.named_parameters()}
    assert got == {
        "stem_0": False,
        "stem_1": False,
        "stages_0": False,
        "stages_1": True,
        "stages_2": True,
        "stages_3": True,
    }


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if not recipe.startswith("Mask2Former")])
def test_every_pyramid_stands_on_swin(recipe: str) -> None:
    name, options = RECIPES[recipe]
    model = small_model(
        recipe, *options, "MODEL.BACKBONE.NAME", name.format("swin"), "MODEL.SWIN.EMBED_DIM", "12",
        "MODEL.SWIN.DEPTHS", "[1, 1, 1, 1]", "MODEL.SWIN.NUM_HEADS", "[1, 2, 4, 8]",
    )  # fmt: skip
    assert isinstance(model.backbone.bottom_up, D2SwinTransformer)
    train_once(model)


@pytest.mark.parametrize("levels,names", [(0, ["p3", "p4", "p5"]), (1, ["p3", "p4", "p5", "p6"])])
def test_fewer_top_levels(levels: int, names: list[str]) -> None:
    bounds = [64, 128, 256][: len(names) - 1]
    strides = [8, 16, 32, 64][: len(names)]
    model = small_model(
        "CondInst/R50_1x.yaml", "MODEL.FCOS.TOP_LEVELS", str(levels), "MODEL.FCOS.IN_FEATURES", str(names),
        "MODEL.FCOS.FPN_STRIDES", str(strides), "MODEL.FCOS.SIZES_OF_INTEREST", str(bounds),
    )  # fmt: skip
    assert torch.isfinite(model([discs(64, 96, 2, seed=1)])["loss_mask"])
