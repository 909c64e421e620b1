"""The twin transformer against a slow, obvious one written from its parameter names."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.sotr.transformer import HEIGHT, WIDTH, AxialSelfAttention, TwinTransformer

HEADS, DEPTH = 2, 3


@pytest.fixture()
def transformer() -> TwinTransformer:
    """In double precision, with open gates."""
    torch.manual_seed(0)
    model = TwinTransformer(channels=8, depth=DEPTH, heads=HEADS).double()
    for name, parameter in model.named_parameters():
        if name.endswith(".g"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def attend(sequence: Tensor, weights: dict[str, Tensor], prefix: str) -> Tensor:
    """Self-attention of one sequence (t, C), head by head."""
    channels = sequence.shape[1]
    query = sequence @ weights[prefix + "to_q.weight"].T
    both = sequence @ weights[prefix + "to_kv.weight"].T
    key, value = both[:, :channels], both[:, channels:]
    heads = []
    for own in torch.arange(channels).chunk(HEADS):
        similarity = query[:, own] @ key[:, own].T / len(own) ** 0.5
        heads.append(torch.softmax(similarity, dim=1) @ value[:, own])
    return torch.cat(heads, dim=1) @ weights[prefix + "to_out.weight"].T + weights[prefix + "to_out.bias"]


def slow_transformer(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """One image (C, h, w), one row, one column after the other (docs/parity/sotr.md, "Twin transformer")."""
    width = x.shape[2]
    x = torch.cat([x, x], dim=2)
    for block in range(0, 2 * DEPTH, 2):
        name = f"layers.blocks.{block}"
        columns = [attend(x[:, :, j].T, weights, f"{name}.0.fn.fn.").T for j in range(x.shape[2])]
        rows = [attend(x[:, i].T, weights, f"{name}.1.fn.fn.").T for i in range(x.shape[1])]
        x = (
            x
            + weights[f"{name}.0.fn.g"] * torch.stack(columns, dim=2)
            + weights[f"{name}.1.fn.g"] * torch.stack(rows, dim=1)
        )
        name = f"layers.blocks.{block + 1}"
        branches = []
        for branch in (f"{name}.0.", f"{name}.1."):
            inner = F.conv2d(x[None], weights[branch + "fn.0.weight"], weights[branch + "fn.0.bias"], padding=1)
            inner = torch.where(inner > 0, inner, 0.01 * inner)
            inner = F.conv2d(inner, weights[branch + "fn.2.weight"], weights[branch + "fn.2.bias"], padding=1)
            branches.append(weights[branch + "g"] * inner[0])
        x = x + branches[0] + branches[1]
    return (x[:, :, :width] + x[:, :, width:]) / 2


@pytest.mark.parametrize("size", [(5, 7), (6, 3), (1, 1)])
def test_equals_rows_and_columns_one_by_one(transformer: TwinTransformer, size: tuple[int, int]) -> None:
    x = torch.randn(2, 8, *size, dtype=torch.float64, requires_grad=True)
    weights: dict[str, Tensor] = dict(transformer.named_parameters())
    fast = transformer(x)
    slow = torch.stack([slow_transformer(image, weights) for image in x])
    torch.testing.assert_close(fast, slow)
    parameters = [x, *weights.values()]
    direction = torch.randn_like(fast)
    gradients = [torch.autograd.grad((y * direction).sum(), parameters) for y in (fast, slow)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("axis", [HEIGHT, WIDTH])
def test_sequences_are_views_of_the_map(axis: int) -> None:
    attention = AxialSelfAttention(8, HEADS, axis)
    x = torch.randn(2, 5, 7, 8)
    sequences = attention._sequences(x)
    assert sequences.data_ptr() == x.data_ptr() and sequences.shape[2] == x.shape[axis]


def test_the_two_copies_see_each_other(transformer: TwinTransformer) -> None:
    """Neither copy can be left out: they differ, because convolutions see the seam in the middle."""
    x = torch.randn(1, 8, 4, 6, dtype=torch.float64)
    left, right = transformer.layers(torch.cat([x, x], dim=3)).chunk(2, dim=3)
    assert (left - right).abs().max() > 1e-3
    assert (transformer.layers(x) - transformer(x)).abs().max() > 1e-3


def test_it_starts_as_the_identity_and_only_the_gates_learn() -> None:
    transformer = TwinTransformer(channels=8, depth=2, heads=HEADS)
    x = torch.randn(2, 8, 4, 5, requires_grad=True)
    y = transformer(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x)
    for name, parameter in transformer.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == name.endswith(".g"), name


def test_published_size() -> None:
    transformer = TwinTransformer()
    assert (
        sum(p.numel() for p in transformer.parameters())
        == 12 * (2 * 4 * 256**2 + 2 * 256 + 4 * (9 * 256**2 + 256)) + 48
    )
