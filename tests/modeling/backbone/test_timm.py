"""The bridge to timm: image sizes, layouts, frozen parts, messages. (test_backbones.py puts it under the pyramid.)"""

from typing import Any

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY

from adet_iuq.config import get_cfg
from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import TimmBackbone


def make(name: str, **options: Any) -> TimmBackbone:
    defaults = {
        "pretrained": False, "freeze_at": 0, "norm_frozen": False, "checkpointing": False, "drop_path_rate": 0.0,
    }  # fmt: skip
    return TimmBackbone(name=name, **{**defaults, **options})


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_outputs_are_timms_own_with_channels_first(name: str) -> None:
    backbone = make(name).eval()
    x = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        ours, theirs = backbone(x), backbone.model(x)
    for (level, ours_map), reduction in zip(ours.items(), (4, 8, 16, 32), strict=True):
        index = backbone.model.feature_info.reduction().index(reduction)
        expected = theirs[index] if name == "resnet18" else torch.einsum("bhwc->bchw", theirs[index])
        assert torch.equal(ours_map, expected), level


@pytest.mark.parametrize("name", ["hiera_tiny_224", "nest_tiny", "maxvit_nano_rw_256", "coatnet_nano_rw_224"])
def test_a_model_for_one_image_size_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} does not take images of any size"):
        make(name)


def test_images_are_padded_to_whole_patches() -> None:
    assert make("swin_tiny_patch4_window7_224").size_divisibility == 32


def test_norms_of_frozen_levels_keep_their_statistics_and_the_others_learn() -> None:
    backbone = make("resnet18", freeze_at=2).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers() if name.endswith("running_mean")}
    backbone(torch.rand(2, 3, 64, 64))
    moved = {name for name, buffer in backbone.named_buffers() if name in before and not buffer.equal(before[name])}
    frozen = {name for name in before if name.startswith(("model.bn1", "model.layer1"))}
    assert frozen and moved == set(before) - frozen


def test_a_new_backbone_is_in_training_mode() -> None:
    backbone = make("convnext_atto")
    assert all(module.training for module in backbone.modules())


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_checkpointing_gives_the_same_gradient(name: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = make(name, checkpointing=checkpointing, norm_frozen=True)
        for module in backbone.modules():
            if type(module).__name__ == "DropPath":
                module.eval()
        torch.manual_seed(1)
        backbone(torch.rand(1, 3, 64, 64))["res4"].square().mean().backward()
        gradients.append(next(backbone.parameters()).grad)
    torch.testing.assert_close(*gradients)


def test_the_config_reaches_the_model() -> None:
    cfg = get_cfg()
    cfg.MODEL.TIMM.NAME = "convnext_atto"
    cfg.MODEL.TIMM.FREEZE_AT = 5
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.3
    backbone = BACKBONE_REGISTRY.get("build_timm_backbone")(cfg, None)
    assert [shape.channels for shape in backbone.output_shape().values()] == [40, 80, 160, 320]
    rates = [m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    levels = [p for name, p in backbone.named_parameters() if "stages" in name]
    assert levels and not any(p.requires_grad for p in levels)


def test_an_option_the_model_lacks_is_named() -> None:
    with pytest.raises(UserError, match=r"vgg11.*drop_path_rate"):
        make("vgg11", drop_path_rate=0.1)


def test_a_weights_tag_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match="nosuchtag"):
        make("resnet18.nosuchtag", pretrained=True)


def test_weights_out_of_reach_are_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(UserError, match="timm cannot make resnet18"):
        make("resnet18", pretrained=True)
