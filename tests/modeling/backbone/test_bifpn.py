"""BiFPN: parameters under their published names, maps that a plain twin computes from the same weights."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils.events import EventStorage
from torch import Tensor

from adet_iuq.config import load_config
from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import BiFPN, build_backbone
from helpers.golden import REPOSITORY
from helpers.scenes import discs, small_cfg, small_model

NODES = ["f3_3_4", "f2_2_5", "f1_1_6", "f0_0_7", "f1_1_7_8", "f2_2_6_9", "f3_3_5_10", "f4_4_11"]
SMALL = ["MODEL.BACKBONE.NAME", "build_fcos_resnet_bifpn_backbone", "MODEL.BiFPN.OUT_CHANNELS", "64"]


def backbone(*options: str) -> BiFPN:
    torch.manual_seed(0)
    found = build_backbone(small_cfg("CondInst/R50_1x.yaml", *SMALL, "MODEL.BiFPN.NUM_REPEATS", "2", *options))
    assert isinstance(found, BiFPN)
    return found


def test_published_names() -> None:
    names = set(backbone("MODEL.BiFPN.NORM", "SyncBN").state_dict())
    assert "bottom_up.backbone.res3.0.conv1.weight" in names
    own = {name for name in names if not name.startswith("bottom_up.backbone.")}
    norm = [f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    expected = {f"bottom_up.res6.reduction.{part}" for part in ["weight", *norm]}
    # Levels 3 and 4 come with the pyramid's channels; levels 0 to 2 do not, in the first repetition.
    laterals = [f"lateral_{level}_f{level}" for level in (0, 1, 2)]
    for repetition, own_laterals in enumerate((laterals, [])):
        prefix = f"repeated_bifpn.{repetition}."
        expected |= {f"{prefix}weights_{node}" for node in NODES}
        expected |= {f"{prefix}outputs_{node}.{part}" for node in NODES for part in ["weight", *norm]}
        # Laterals alone have a bias beside their norm.
        expected |= {f"{prefix}{lateral}.{part}" for lateral in own_laterals for part in ["weight", "bias", *norm]}
    assert own == expected


def test_without_norm_convolutions_have_biases() -> None:
    names = set(backbone().state_dict())
    for part in ("bottom_up.res6.reduction", "repeated_bifpn.0.lateral_0_f0", "repeated_bifpn.1.outputs_f4_4_11"):
        assert {f"{part}.weight", f"{part}.bias"} <= names


def twin(x: Tensor, model: BiFPN) -> list[Tensor]:
    """One node after the other, written out."""
    weights = model.state_dict()

    def convolution(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, 1)

    maps = model.bottom_up.backbone(x)
    levels = [maps["res3"], maps["res4"], maps["res5"]]
    levels.append(pool(convolution(maps["res5"], "bottom_up.res6.reduction")))
    levels.append(pool(levels[-1]))
    for repetition in range(2):
        nodes = list(levels)
        for node in NODES:
            level, *inputs = (int(number) for number in node[1:].split("_"))
            share = weights[f"repeated_bifpn.{repetition}.weights_{node}"].clamp(min=0)
            total = 0
            for one, part in zip(inputs, share / (share.sum() + 1e-4), strict=True):
                y = nodes[one]
                if repetition == 0 and one < 3:
                    y = convolution(y, f"repeated_bifpn.0.lateral_{one}_f{level}")
                if y.shape[-1] < levels[level].shape[-1]:
                    y = y.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
                elif y.shape[-1] > levels[level].shape[-1]:
                    y = pool(y)
                total = total + part * y
            assert isinstance(total, Tensor)
            name = f"repeated_bifpn.{repetition}.outputs_{node}"
            nodes.append(convolution(total * total.sigmoid(), name, padding=1))
        levels = nodes[8:]
    return levels


@torch.no_grad()
def test_maps_are_those_of_the_twin() -> None:
    model = backbone().eval()
    for name, parameter in model.named_parameters():
        if ".weights_" in name:
            parameter.copy_(torch.randn_like(parameter) + 0.5)
    x = torch.rand(2, 3, 128, 256)
    maps = model(x)
    assert list(maps) == ["p3", "p4", "p5", "p6", "p7"] and model.size_divisibility == 128
    for (name, found), expected in zip(maps.items(), twin(x, model), strict=True):
        torch.testing.assert_close(found, expected)
        shape = model.output_shape()[name]
        assert found.shape == (2, shape.channels, 128 // shape.stride, 256 // shape.stride)


@pytest.mark.parametrize("recipe", ["CondInst/R50_1x.yaml", "CondInst/R50_1x_iuq.yaml"])
def test_condinst_trains_and_every_weight_of_the_pyramid_has_a_gradient(recipe: str) -> None:
    model = small_model(recipe, *SMALL, "MODEL.BiFPN.NORM", "SyncBN", "MODEL.BiFPN.NUM_REPEATS", "2").train()
    scenes = [discs(96, 100, 2, seed=1), discs(80, 128, 2, seed=2)]
    with EventStorage():
        sum(model(scenes).values()).backward()
    without = [name for name, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert model.eval()(scenes[:1])[0]["instances"].image_size == (96, 100)


# AdelaiDet: configs/CondInst/MS_R_50_BiFPN_1x.yaml, MS_R_50_BiFPN_3x_sem.yaml and their like.
PUBLISHED = """\
_BASE_: "{base}"
MODEL:
  BACKBONE:
    NAME: "build_fcos_resnet_bifpn_backbone"
  RESNETS:
    DEPTH: {depth}
  BiFPN:
    NORM: "SyncBN"
  CONDINST:
    MASK_BRANCH:
      SEMANTIC_LOSS_ON: {semantic}
"""


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("semantic", [False, True])
def test_the_published_keys_load_and_build(depth: int, semantic: bool, tmp_path: Path) -> None:
    file = tmp_path / "MS_R_BiFPN.yaml"
    base = REPOSITORY / "configs/CondInst/R50_1x.yaml"
    file.write_text(PUBLISHED.format(base=base, depth=depth, semantic=semantic))
    cfg = load_config(str(file), ["MODEL.DEVICE", "cpu"]).cfg
    found = build_backbone(cfg)
    assert isinstance(found, BiFPN) and len(found.repeated_bifpn) == 6
    assert {shape.channels for shape in found.output_shape().values()} == {160}


LEVELS = [
    ("MODEL.BiFPN.IN_FEATURES", "['res4', 'res5']"),
    ("MODEL.BiFPN.IN_FEATURES", "['a', 'b', 'c']"),
    ("MODEL.FCOS.TOP_LEVELS", "1"),
]


@pytest.mark.parametrize("options", LEVELS)
def test_another_number_of_levels_is_refused(options: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="BiFPN has five levels, three of"):
        backbone(*options)
