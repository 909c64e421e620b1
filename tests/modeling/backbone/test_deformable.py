"""Deformable ResNets: detectron2's networks where nothing is deformable, and the right points where something is."""

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.config import get_cfg
from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import build_backbone, build_deformable_resnet, build_deformable_resnet_fpn_backbone
from adet_iuq.modeling.backbone.deformable import DeformableBottleneck

IMAGES = ShapeSpec(channels=3)
LEVELS = ["res2", "res3", "res4", "res5"]


def cfg_of(**resnets: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = LEVELS
    for key, value in resnets.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


@pytest.mark.parametrize(
    "name", ["build_resnet_backbone", "build_resnet_fpn_backbone", "build_fcos_resnet_fpn_backbone"]
)
def test_detectron2s_resnets_get_deformable_stages_that_train(name: str) -> None:
    """Their own blocks need compiled code. FCOS's pyramid is this project's; without such stages all are detectron2's."""
    cfg = cfg_of(DEPTH=50, DEFORM_ON_PER_STAGE=[False, False, False, True], DEFORM_MODULATED=True)
    cfg.MODEL.BACKBONE.NAME = name
    backbone = build_backbone(cfg)
    blocks = {path: module for path, module in backbone.named_modules() if isinstance(module, DeformableBottleneck)}
    assert len(blocks) == 3 and all(".res5." in f".{path}" for path in blocks)
    features = backbone(torch.rand(1, 3, 64, 64))
    torch.stack([value.square().sum() for value in features.values()]).sum().backward()
    assert all(block.conv2_offset.weight.grad.any() for block in blocks.values())
    cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    assert not any(isinstance(module, DeformableBottleneck) for module in build_backbone(cfg).modules())


def block_of(modulated: bool = True, groups: int = 1, **options: Any) -> DeformableBottleneck:
    torch.manual_seed(0)
    return DeformableBottleneck(
        8, 16, bottleneck_channels=4, deform_modulated=modulated, deform_num_groups=groups, **options
    ).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
        {"DEPTH": 50},
        {"DEPTH": 50, "RES5_DILATION": 2, "STRIDE_IN_1X1": False, "NUM_GROUPS": 2, "WIDTH_PER_GROUP": 8},
    ],
)
def test_without_deformable_stages_it_is_detectron2s(options: dict[str, Any]) -> None:
    cfg = cfg_of(**options)
    theirs, ours = (build(cfg, IMAGES).eval() for build in (build_resnet_backbone, build_deformable_resnet))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    frozen = [[name for name, p in model.named_parameters() if not p.requires_grad] for model in (ours, theirs)]
    assert frozen[0] == frozen[1] != []
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = ours(x)
        for name, value in theirs(x).items():
            assert torch.equal(maps[name], value), name


def test_the_pyramid_is_detectron2s() -> None:
    cfg = cfg_of(DEPTH=50)
    theirs = BACKBONE_REGISTRY.get("build_resnet_fpn_backbone")(cfg, IMAGES).eval()
    ours = build_deformable_resnet_fpn_backbone(cfg, IMAGES).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = ours(x)
        assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]
        for name, value in theirs(x).items():
            assert torch.equal(maps[name], value), name


def test_every_block_of_the_stages_named_is_deformable() -> None:
    cfg = cfg_of(DEPTH=50, DEFORM_ON_PER_STAGE=[False, True, False, True], DEFORM_MODULATED=True, DEFORM_NUM_GROUPS=2)
    cfg.MODEL.BACKBONE.FREEZE_AT = 3
    network = build_deformable_resnet(cfg, IMAGES)
    for name, deformable in zip(LEVELS, (False, True, False, True), strict=True):
        for block in getattr(network, name):
            assert isinstance(block, DeformableBottleneck) == deformable
            if deformable:
                assert block.modulated and block.conv2_offset.out_channels == 2 * 27
                assert all(p.requires_grad == (name == "res5") for p in block.parameters())


@pytest.mark.parametrize("stride", [1, 2])
def test_it_starts_as_a_plain_convolution(stride: int) -> None:
    x = torch.randn(2, 8, 9, 12)
    plain = BottleneckBlock(8, 16, bottleneck_channels=4, stride=stride).eval()
    block = block_of(modulated=False, stride=stride)
    block.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(block(x), plain(x))
    hidden = torch.randn(2, 4, 9, 12)
    modulated = block_of(modulated=True, stride=stride, norm="")
    torch.testing.assert_close(modulated._deformable(hidden), modulated.conv2(hidden) / 2)  # sigmoid(0)


def bilinear(image: Tensor, y: float, x: float) -> float:
    """A map (h, w) at a position in cells, zero outside."""
    height, width = image.shape
    value = 0.0
    for i in range(int(y // 1), int(y // 1) + 2):
        for j in range(int(x // 1), int(x // 1) + 2):
            if 0 <= i < height and 0 <= j < width:
                value += image[i, j].item() * (1 - abs(y - i)) * (1 - abs(x - j))
    return value


@pytest.mark.parametrize("modulated,groups", [(True, 1), (True, 2), (False, 2)])
@pytest.mark.parametrize("stride,dilation", [(1, 1), (2, 1), (1, 2)])
def test_points_are_read_where_predicted(modulated: bool, groups: int, stride: int, dilation: int) -> None:
    """Point by point: (dy, dx) pairs row by row, group by group, then the weights before the sigmoid."""
    block = block_of(modulated, groups, stride=stride, dilation=dilation, stride_in_1x1=False, norm="").double()
    torch.nn.init.normal_(block.conv2_offset.weight, std=0.3)
    torch.nn.init.normal_(block.conv2_offset.bias)
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        predicted, out = block.conv2_offset(x)[0], block._deformable(x)
    expected = torch.zeros_like(out)
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            columns = torch.zeros(4, 9, dtype=torch.float64)
            for channel in range(4):
                group = channel * groups // 4
                for point in range(9):
                    dy, dx = predicted[18 * group + 2 * point : 18 * group + 2 * point + 2, i, j].tolist()
                    y = i * stride + (point // 3 - 1) * dilation + dy
                    z = j * stride + (point % 3 - 1) * dilation + dx
                    weight = predicted[18 * groups + 9 * group + point, i, j].sigmoid().item() if modulated else 1.0
                    columns[channel, point] = weight * bilinear(x[0, channel], y, z)
            expected[0, :, i, j] = torch.einsum("ocp,cp->o", block.conv2.weight.flatten(2), columns)
    torch.testing.assert_close(out, expected)


def test_offsets_learn_and_half_precision_trains() -> None:
    block = block_of(norm="FrozenBN").train()
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    for enabled in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = block(x)
        F.mse_loss(out.float(), torch.ones_like(out, dtype=torch.float32)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in block.parameters())


def test_wrong_options_say_what_is_wrong() -> None:
    with pytest.raises(UserError, match=r"DEFORM_ON_PER_STAGE"):
        build_deformable_resnet(
            cfg_of(DEPTH=18, RES2_OUT_CHANNELS=64, DEFORM_ON_PER_STAGE=[False] * 3 + [True]), IMAGES
        )
    with pytest.raises(UserError, match=r"DEPTH is 99"):
        build_deformable_resnet(cfg_of(DEPTH=99), IMAGES)
