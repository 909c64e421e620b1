"""Swin against the published backbone's numbers and names (Mask2Former's goldens)."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adet_iuq.config import load_config
from adet_iuq.modeling.backbone import D2SwinTransformer
from helpers.golden import assert_close, fill, golden_dir, load_golden

pytestmark = pytest.mark.golden

FEATURES = 1e-4  # README: "features, logits, mask logits, end to end"
# What the recipes of the parity spec's section 2 say of the backbone; a golden names one of them as its base.
RECIPES: dict[str, list[Any]] = {
    "tiny": [],
    "small": ["MODEL.SWIN.DEPTHS", [2, 2, 18, 2]],
    "base": [
        "MODEL.SWIN.EMBED_DIM", 128, "MODEL.SWIN.DEPTHS", [2, 2, 18, 2], "MODEL.SWIN.NUM_HEADS", [4, 8, 16, 32],
        "MODEL.SWIN.WINDOW_SIZE", 12, "MODEL.SWIN.PRETRAIN_IMG_SIZE", 384,
    ],
    "large": [
        "MODEL.SWIN.EMBED_DIM", 192, "MODEL.SWIN.DEPTHS", [2, 2, 18, 2], "MODEL.SWIN.NUM_HEADS", [6, 12, 24, 48],
        "MODEL.SWIN.WINDOW_SIZE", 12, "MODEL.SWIN.PRETRAIN_IMG_SIZE", 384,
    ],
}  # fmt: skip


def build(recipe: str, *opts: Any) -> D2SwinTransformer:
    overrides = [str(part) for part in [*RECIPES[recipe], *opts]]
    return D2SwinTransformer(load_config(None, overrides).cfg).eval()


@pytest.mark.parametrize("size", ["small", "base", "large", "large_panoptic"])
def test_every_tensor_of_the_published_backbone_is_there(size: str) -> None:
    listed = json.loads((golden_dir("mask2former") / f"params_swin_{size}.json").read_text())
    published = {name.removeprefix("backbone."): entry for name, entry in listed.items() if "backbone." in name}
    with torch.device("meta"):
        backbone = build(size.split("_")[0])
    parameters = dict(backbone.named_parameters())
    ours = {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "kind": "parameter" if name in parameters else "buffer",
        }
        for name, tensor in backbone.state_dict().items()
    }
    assert ours == published


def test_window12_with_every_kind_of_padding() -> None:
    golden = load_golden("mask2former", "swin_window12")
    assert golden.meta["base"] == "COCO instance Swin-B 384"
    backbone = build("base", *golden.meta["opts"])
    fill(backbone, golden.meta["seed"], golden.meta.get("constants", {}))
    x = np.load(golden_dir("mask2former") / "golden_swin_window12.npz")["in/x"]
    with torch.no_grad():
        maps = backbone(torch.from_numpy(x))
    assert set(maps) == set(golden.outputs)
    for name, expected in golden.outputs.items():
        assert_close(name, maps[name].numpy(), expected, "scale", FEATURES)


class Backbone(nn.Module):
    """Gives the backbone the prefix that the golden's weights are drawn for."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def test_swin_small_features() -> None:
    golden = load_golden("mask2former", "swin_small")
    opts = golden.meta["opts"]
    pairs = [pair for pair in zip(opts[::2], opts[1::2], strict=True) if pair[0].startswith("MODEL.SWIN.")]
    assert golden.meta["base"] == "COCO instance Swin-S"
    backbone = build("small", *(part for pair in pairs for part in pair))
    fill(Backbone(backbone), golden.meta["seed"], golden.meta["constants"])
    mean, std = (torch.tensor(values)[:, None, None] for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    images = [(torch.from_numpy(entry["image"]).float() - mean) / std for entry in golden.inputs]
    size = [-(-max(side) // 32) * 32 for side in zip(*(image.shape[-2:] for image in images), strict=True)]
    batch = torch.zeros(len(images), 3, *size)
    for padded, image in zip(batch, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    with torch.no_grad():
        maps = backbone(batch)
    assert list(maps) == ["res2", "res3", "res4", "res5"]
    for name, computed in maps.items():
        # Some channels in full, mean and mean absolute value of all of them.
        step = 16 if name == "res2" else 32
        assert_close(name, computed[:, ::step].numpy(), golden.outputs[f"backbone/{name}"], "scale", FEATURES)
        stats = torch.stack([computed.mean((0, 2, 3)), computed.abs().mean((0, 2, 3))], dim=1)
        assert_close(f"{name} statistics", stats.numpy(), golden.outputs[f"backbone_stats/{name}"], "scale", FEATURES)
