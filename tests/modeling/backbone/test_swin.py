"""Swin: against attention over all pairs of cells, and what training asks of it."""

import itertools
from typing import Any

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor

from adet_iuq.config import get_cfg
from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import D2SwinTransformer
from adet_iuq.modeling.backbone.swin_parts import SwinBlock, WindowAttention, join_windows, shift_mask, split_windows
from helpers.scenes import discs, small_model


def tiny(**options: Any) -> D2SwinTransformer:
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 4}
    return D2SwinTransformer(**{**sizes, **options})


def drop_rates(backbone: D2SwinTransformer) -> list[float]:
    blocks = [module for module in backbone.modules() if isinstance(module, SwinBlock)]
    return [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]


def attend_over_all_pairs(attn: WindowAttention, x: Tensor, window: int, shift: int) -> Tensor:
    """Every cell of the padded (H, W, C) map looks at every other one and asks whether it may."""
    height, width, channels = x.shape
    cells = list(itertools.product(range(height), range(width)))
    qkv = attn.qkv(x).view(height * width, 3, attn.heads, channels // attn.heads)
    logits = torch.einsum("ihd,jhd->hij", qkv[:, 0] * attn.scale, qkv[:, 1])
    seam = {axis: length - window for axis, length in enumerate((height, width))}
    for i, j in itertools.product(range(len(cells)), repeat=2):
        places = []
        for cell in (cells[i], cells[j]):
            rolled = [(c - shift) % length for c, length in zip(cell, (height, width), strict=True)]
            wrapped = tuple(r >= seam[a] and c < shift for a, (r, c) in enumerate(zip(rolled, cell, strict=True)))
            places.append((rolled, tuple(r // window for r in rolled), wrapped))
        (a, window_a, wrapped_a), (b, window_b, wrapped_b) = places
        if window_a != window_b:
            logits[:, i, j] = -torch.inf
            continue
        row = (a[0] - b[0] + window - 1) * (2 * window - 1) + a[1] - b[1] + window - 1
        logits[:, i, j] += attn.relative_position_bias_table[row] - 100.0 * (shift > 0 and wrapped_a != wrapped_b)
    out = torch.einsum("hij,jhd->ihd", logits.softmax(-1), qkv[:, 2])
    return attn.proj(out.reshape(height, width, channels))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(3, 3), (8, 4), (7, 9)])
def test_block_equals_attention_over_all_pairs(size: tuple[int, int], shifted: bool) -> None:
    torch.manual_seed(0)
    window = 4
    block = SwinBlock(WindowAttention(8, window, 2, True, None, (0.0, 0.0)), 8, 2.0, 0.0, 0.0)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(2, *size, 8)
    padded_size = (-(-size[0] // window) * window, -(-size[1] // window) * window)
    mask = shift_mask(padded_size, window, x) if shifted else None
    with torch.no_grad():
        computed = block(x, window, mask)
        for image, result in zip(x, computed, strict=True):
            padded = torch.zeros(*padded_size, 8)
            padded[: size[0], : size[1]] = block.norm1(image)
            attended = attend_over_all_pairs(block.attn, padded, window, window // 2 if shifted else 0)
            expected = image + attended[: size[0], : size[1]]
            expected = expected + block.mlp(block.norm2(expected))
            torch.testing.assert_close(result, expected)


def test_windows_run_row_by_row_and_join_again() -> None:
    x = torch.arange(4 * 6).view(1, 4, 6, 1)
    windows = split_windows(x, 2)
    assert windows[0, :, :, 0].tolist()[:2] == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert torch.equal(join_windows(windows, 2, (4, 6)), x)


@pytest.mark.parametrize("size", [(64, 96), (37, 50)])
def test_outputs_have_the_strides_they_claim(size: tuple[int, int]) -> None:
    backbone = tiny()
    maps = backbone(torch.rand(2, 3, *size))
    assert list(maps) == ["res2", "res3", "res4", "res5"] and backbone.size_divisibility == 32
    for name, shape in backbone.output_shape().items():
        rows, columns = (-(-side // shape.stride) for side in size)
        assert maps[name].shape == (2, shape.channels, rows, columns)


def test_levels_that_nothing_needs_are_not_built_and_the_others_stay_the_same() -> None:
    whole, part = tiny().eval(), tiny(out_features=["res2", "res4"]).eval()
    assert len(part.layers) == 3 and part.layers[2].downsample is None and not hasattr(part, "norm1")
    part.load_state_dict({name: value for name, value in whole.state_dict().items() if name in part.state_dict()})
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(part(x)["res4"], whole(x)["res4"]) and list(part(x)) == ["res2", "res4"]
    assert drop_rates(part) == drop_rates(whole)[:6]
    part.train()(x)["res4"].sum().backward()
    assert all(p.grad is not None for name, p in part.named_parameters() if not name.startswith("norm0"))


def test_drop_path_grows_from_nothing_and_is_off_in_evaluation() -> None:
    backbone = tiny(drop_path_rate=0.35)
    assert drop_rates(backbone) == pytest.approx([0.05 * i for i in range(8)])
    x = torch.rand(1, 3, 32, 32)
    assert not torch.equal(backbone(x)["res5"], backbone(x)["res5"])
    assert torch.equal(backbone.eval()(x)["res5"], backbone(x)["res5"])


@pytest.mark.parametrize("freeze_at", range(6))
def test_freezing_stops_at_the_level_named(freeze_at: int) -> None:
    backbone = tiny(freeze_at=freeze_at, ape=True)
    maps = backbone(torch.rand(1, 3, 64, 64))
    trained = [maps[name].requires_grad for name in ("res2", "res3", "res4", "res5")]
    assert trained == [i + 2 > freeze_at for i in range(4)]
    assert backbone.patch_embed.proj.weight.requires_grad == (freeze_at == 0)
    assert backbone.absolute_pos_embed.requires_grad == (freeze_at == 0)


def test_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for use_checkpoint in (False, True):
        backbone = tiny(use_checkpoint=use_checkpoint)
        torch.manual_seed(1)
        sum(m.square().mean() for m in backbone(torch.rand(1, 3, 50, 64)).values()).backward()
        gradients.append([p.grad for p in backbone.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_bfloat16_autocast_stays_near_float32() -> None:
    backbone = tiny().eval()
    x = torch.rand(1, 3, 64, 96)
    exact = backbone(x)["res5"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(x)["res5"]
        rough.float().square().mean().backward()
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters() if p.grad is not None)


def test_condinst_trains_on_swin_under_the_pyramid() -> None:
    small = ("MODEL.SWIN.EMBED_DIM", "24", "MODEL.SWIN.OUT_FEATURES", "['res3', 'res4', 'res5']")
    model = small_model("CondInst/R50_1x.yaml", "MODEL.BACKBONE.NAME", "build_fcos_swin_fpn_backbone", *small)
    losses = model([discs(64, 96, 2, seed=1)])
    torch.stack(list(losses.values())).sum().backward()
    gradient = model.backbone.bottom_up.patch_embed.proj.weight.grad
    assert torch.isfinite(losses["loss_mask"]) and gradient is not None and gradient.abs().sum() > 0


def test_the_config_reaches_the_backbone() -> None:
    cfg = get_cfg()
    cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.NUM_HEADS, cfg.MODEL.SWIN.QK_SCALE = 24, [1, 2, 4, 8], 0.5
    backbone = BACKBONE_REGISTRY.get("D2SwinTransformer")(cfg, None)
    assert [shape.channels for shape in backbone.output_shape().values()] == [24, 48, 96, 192]
    assert backbone.layers[3].blocks[1].attn.scale == 0.5 and backbone.layers[3].blocks[1].attn.heads == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": (1, 2, 4)}, "four numbers"),
        ({"num_heads": (3, 3, 3, 3)}, "EMBED_DIM 16"),
        ({"out_features": ["res1"]}, "res1"),
        ({"out_features": []}, "OUT_FEATURES"),
        ({"freeze_at": 6}, "FREEZE_AT"),
    ],
)
def test_numbers_that_do_not_fit_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**options)
