"""Foreign weights in models here: the features must be the foreign model's."""

from typing import Any

import pytest
import timm
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from adet_iuq.checkpoint.convert import from_ours, to_ours
from adet_iuq.checkpoint.modernize import modern_names
from adet_iuq.config import get_cfg
from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import TimmBackbone

SWIN: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 7}


class Model(nn.Module):
    """A backbone and something that stands on it."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.head = nn.Linear(2, 2)


def swin_cfg(under_pyramid: bool = False) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.NUM_HEADS = SWIN["embed_dim"], list(SWIN["num_heads"])
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 2, 2]
    cfg.MODEL.BACKBONE.NAME = "build_fcos_swin_fpn_backbone" if under_pyramid else "D2SwinTransformer"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    return cfg


def resnet_cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.STRIDE_IN_1X1 = "build_resnet_backbone", False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return cfg


def randomised(model: nn.Module) -> nn.Module:
    """Also norms and statistics: at their initial values a swap would not show."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator) * ("bias" not in name))
    return model.eval()


def timm_swin(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**SWIN, "dynamic_img_size": True, "always_partition": True}
    return randomised(timm.create_model("swin_tiny_patch4_window7_224", **sizes, **options))


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("under_pyramid", [False, True])
def test_swin_of_timm_gives_the_same_features(features_only: bool, under_pyramid: bool) -> None:
    model = Model(swin_cfg(under_pyramid)).eval()
    conversion = to_ours(timm_swin(features_only=features_only).state_dict(), model, "timm")
    assert not conversion.problems
    norms = {f"norm{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    assert norms <= {name.rsplit("up.", 1)[-1].removeprefix("backbone.") for name in conversion.left_out}
    model.load_state_dict(conversion.tensors, strict=False)
    swin = model.backbone.bottom_up if under_pyramid else model.backbone
    x = torch.rand(1, 3, 224, 448)  # every level's map is a multiple of the window
    with torch.no_grad():
        theirs = timm_swin(features_only=True)(x)
        for name, expected in zip(("res2", "res3", "res4", "res5"), theirs, strict=True):
            normed = nn.functional.layer_norm(expected, expected.shape[-1:])  # norm0 to norm3 at 1 and 0
            torch.testing.assert_close(swin(x)[name], normed.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_swin_goes_to_timm_and_to_its_authors_and_back() -> None:
    model = Model(swin_cfg())
    randomised(model)
    ours = model.state_dict()
    bottom_up = {n: t for n, t in ours.items() if n.startswith("backbone.") and "norm0" not in n}
    for target in ("timm", "swin"):
        there = from_ours(ours, model, target)
        assert not there.problems and "head.weight" in there.left_out and "backbone.norm3.bias" in there.left_out
        back = to_ours(there.tensors, model, target)
        assert not back.problems and back.tensors
        assert all(torch.equal(back.tensors[name], bottom_up[name]) for name in back.tensors)
        assert {n for n in bottom_up if not n.startswith("backbone.norm") and "index" not in n} <= set(back.tensors)
    plain = timm_swin()
    missing = plain.load_state_dict(from_ours(ours, model, "timm").tensors, strict=False)
    assert not missing.unexpected_keys and all(n.startswith(("norm", "head")) for n in missing.missing_keys)


@pytest.mark.parametrize("bare_prefix", ["", "backbone."])
def test_published_swin_classifiers_load_as_they_are(bare_prefix: str) -> None:
    """Names of the authors' files: those of our backbone, and a final norm, a head and shift masks besides."""
    model = Model(swin_cfg())
    file = {n: t + 1 for n, t in from_ours(model.state_dict(), model, "swin").tensors.items()}
    extras = {
        "norm.weight": torch.ones(192),
        "head.weight": torch.ones(5, 192),
        "layers.0.blocks.1.attn_mask": torch.ones(1),
    }
    conversion = to_ours(file | extras, model, "swin")
    assert not conversion.problems and set(extras) <= set(conversion.left_out)
    assert torch.equal(conversion.tensors["backbone.patch_embed.proj.bias"], file["patch_embed.proj.bias"])
    renamed = modern_names(
        {bare_prefix + name: tensor for name, tensor in (file | extras).items()}, model.state_dict().keys()
    )
    assert {f"backbone.{name}" for name in file} <= set(renamed)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_half_a_backbone_is_refused_by_name(change: str) -> None:
    model = Model(swin_cfg())
    file = from_ours(model.state_dict(), model, "swin").tensors
    name = "layers.2.blocks.1.mlp.fc1.weight"
    if change == "missing":
        del file[name]
    elif change == "unknown":
        name = "layers.2.blocks.2.mlp.fc1.weight"
        file[name] = torch.zeros(1)
    else:
        file[name] = torch.zeros(3, 3)
    with pytest.raises(UserError, match=f"(?s)nothing was written.*{name}"):
        to_ours(file, model, "swin").raise_if_incomplete("a.pth")


@pytest.mark.parametrize("target", ["swin", "timm", "detectron2"])
@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_half_a_model_is_not_given_away_either(target: str, change: str) -> None:
    model = Model(swin_cfg())
    tensors = model.state_dict()
    name = "backbone.layers.2.blocks.1.mlp.fc1.weight"
    if change == "missing":
        del tensors[name]
    elif change == "unknown":
        name = "backbone.layers.2.blocks.2.mlp.fc1.weight"
        tensors[name] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(3, 3)
    with pytest.raises(UserError, match=f"(?s)nothing was written.*{name}"):
        from_ours(tensors, model, target).raise_if_incomplete("a.pth")


def test_every_tensor_of_a_file_is_converted_or_reported() -> None:
    """Two names of one tensor, a classifier, buffers that are made anew: each is somewhere."""
    model = Model(swin_cfg())
    file = from_ours(model.state_dict(), model, "timm").tensors
    twice = {name.replace("layers.1.", "layers_1."): tensor for name, tensor in file.items() if "layers.1." in name}
    others = {"head.fc.weight": torch.ones(2, 2), "layers.0.blocks.1.attn_mask": torch.ones(1)}
    conversion = to_ours({**file, **twice, **others}, model, "timm")
    assert set(others) <= set(conversion.left_out)
    assert twice and all(name in conversion.problems[0] for name in twice)
    whole = {"pixel_mean": torch.ones(3), **model.state_dict()}
    conversion = to_ours(whole, model, "detectron2")
    assert not conversion.problems and set(whole) == {*conversion.tensors, *conversion.left_out}


def test_resnet_of_timm_gives_the_same_features() -> None:
    torch.manual_seed(0)
    theirs = randomised(timm.create_model("resnet50"))
    model = Model(resnet_cfg()).eval()
    conversion = to_ours(theirs.state_dict(), model, "timm")
    assert not conversion.problems
    model.load_state_dict(conversion.tensors, strict=False)
    features = timm.create_model("resnet50", features_only=True).eval()
    features.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected: list[Tensor] = features(x)[1:]
        for computed, wanted in zip(model.backbone(x).values(), expected, strict=True):
            torch.testing.assert_close(computed, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
    back = from_ours(model.state_dict(), model, "timm").tensors
    assert back and all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in back.items())
    lacking = {n for n in theirs.state_dict() if n not in back}
    assert all(n.startswith("fc.") or n.endswith("num_batches_tracked") for n in lacking)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_the_bridge_takes_plain_files_of_timm(name: str) -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME = "build_timm_backbone", name
    model = Model(cfg).eval()
    assert isinstance(model.backbone, TimmBackbone)
    theirs: Any = timm.create_model(name, num_classes=3).eval()
    conversion = to_ours(theirs.state_dict(), model, "timm")
    assert not conversion.problems
    model.load_state_dict(conversion.tensors, strict=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.backbone(x)["res5"], theirs.forward_features(x))
    back = from_ours(model.state_dict(), model, "timm")
    assert not back.problems and len(back.tensors) == len(conversion.tensors)
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in back.tensors.items())


def test_a_backbone_that_timm_does_not_know() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(1, 1))

    with pytest.raises(UserError, match=r"0\.weight.* has no counterpart in timm"):
        to_ours({}, Other(), "timm")


def test_older_mask2former_names() -> None:
    tensor = torch.zeros(1)
    model = ["sem_seg_head.pixel_decoder.layer_1.weight", "sem_seg_head.predictor.query_feat.weight"]
    both = {model[1]: tensor, model[1].replace("query_feat", "static_query"): tensor}
    assert list(modern_names(both, model)) == list(both)
    old = {"sem_seg_head.layer_1.weight": tensor, "sem_seg_head.predictor.static_query.weight": tensor}
    assert list(modern_names(old, model)) == model
    assert list(modern_names({"sem_seg_head.other": tensor, model[0]: tensor}, model)) == [
        "sem_seg_head.other",
        model[0],
    ]
