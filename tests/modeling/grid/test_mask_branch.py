"""The unified mask branch and deformable convolutions."""

import pytest
import torch
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.grid import GridMaskBranch, coordinate_maps
from adet_iuq.modeling.grid.mask_branch import GroupNorm
from adet_iuq.modeling.layers import DeformableConv, split_offsets


def test_mask_branch_has_a_block_for_every_doubling() -> None:
    branch = GridMaskBranch(in_channels=[5, 5, 5, 7], channels=32, out_channels=64, norm="GN")
    levels = [list(level.children()) for level in branch.convs_all_levels]
    assert [len(blocks) for blocks in levels] == [1, 1, 2, 3]
    maps = [torch.rand(2, 7 if level == 3 else 5, 16 // 2**level, 24 // 2**level) for level in range(4)]
    found = branch(maps)
    assert found.shape == (2, 64, 16, 24) and (found >= 0).all()
    merged = torch.zeros(())
    for level, (blocks, x) in enumerate(zip(levels, maps, strict=True)):
        for block in blocks:
            x = F.interpolate(block(x), scale_factor=2, mode="bilinear") if level else block(x)
        merged = merged + x
    torch.testing.assert_close(found, branch.conv_pred(merged))


def test_a_group_of_one_value_keeps_its_bias() -> None:
    ours, theirs = GroupNorm(4, 8), torch.nn.GroupNorm(4, 8)
    torch.nn.init.normal_(ours.weight)
    torch.nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(ours(x), theirs(x))
    single = GroupNorm(8, 8).double()
    torch.nn.init.normal_(single.bias)
    x = torch.randn(1, 8, 1, 1, dtype=torch.float64, requires_grad=True)
    y = single(x)
    gradients = torch.autograd.grad(y.sum(), [x, single.weight, single.bias])
    torch.testing.assert_close(y, single.bias.view(1, 8, 1, 1))
    torch.testing.assert_close(gradients, (x * 0, single.weight * 0, single.bias * 0 + 1), rtol=0, atol=1e-12)


def test_mask_branch_without_norm_has_biases_and_keeps_the_last_norm() -> None:
    branch = GridMaskBranch(in_channels=[4, 4], channels=8, out_channels=32, norm="none")
    names = {name for name, _ in branch.named_parameters()}
    assert {"convs_all_levels.1.conv0.0.bias", "conv_pred.0.bias", "conv_pred.1.weight"} <= names
    assert "convs_all_levels.1.conv0.1.weight" not in names


@pytest.mark.parametrize(
    "norm,channels,out_channels,words", [("BN", 32, 32, "NORM"), ("GN", 24, 32, "24"), ("none", 8, 24, "24")]
)
def test_what_does_not_fit_the_norm_is_refused(norm: str, channels: int, out_channels: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        GridMaskBranch(in_channels=[4], channels=channels, out_channels=out_channels, norm=norm)


@pytest.mark.parametrize("size", [(3, 5), (1, 4), (1, 1)])
def test_coordinates_run_from_one_end_to_the_other(size: tuple[int, int]) -> None:
    x, y = coordinate_maps(torch.zeros(2, 9, *size))[0]
    assert x.shape == y.shape == size
    for axis, n in ((x[0], size[1]), (y[:, 0], size[0])):
        torch.testing.assert_close(axis, torch.tensor([-1.0 + 2 * k / max(n - 1, 1) for k in range(n)]))
    assert (x == x[:1]).all() and (y == y[:, :1]).all()


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution_starts_as_a_plain_one_and_reads_where_it_is_told(modulated: bool) -> None:
    layer = DeformableConv(4, 6, modulated=modulated, bias=True)
    x = torch.rand(2, 4, 9, 8)
    plain = F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1)
    bias = layer.conv.bias[:, None, None]
    scale = 0.5 if modulated else 1.0  # weights start at sigmoid(0)
    torch.testing.assert_close(layer(x), (plain - bias) * scale + bias)
    assert layer.offset.bias is not None
    with torch.no_grad():
        layer.offset.bias[: 2 * 9 : 2] = 1.0  # dy of all points: one row further down
        if modulated:
            layer.offset.bias[18:] = 100.0
    moved = F.conv2d(F.pad(x, (0, 0, 0, 1))[:, :, 1:], layer.conv.weight, layer.conv.bias, padding=1)
    torch.testing.assert_close(layer(x)[:, :, 1:], moved[:, :, 1:], rtol=1e-4, atol=1e-5)
    layer(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_offsets_come_first_and_weights_last() -> None:
    raw = torch.randn(1, 27, 2, 2)
    offsets, weights = split_offsets(raw, modulated=True)
    assert torch.equal(offsets, raw[:, :18])
    assert weights is not None and torch.equal(weights, raw[:, 18:].sigmoid())
    assert split_offsets(raw[:, :18], modulated=False)[1] is None
