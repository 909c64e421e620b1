"""The losses of grid segmenters against a mask a pair and dense targets."""

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor

from adet_iuq.modeling.grid import class_loss, mask_logits, mask_loss, quarter_masks
from adet_iuq.modeling.layers import dice_losses


def pairs() -> tuple[Tensor, Tensor, list[Tensor]]:
    """Images, instances and masks of six queries on three images, one of which has no instance."""
    masks = [torch.rand(k, 22, 30) > 0.6 for k in (2, 0, 3)]
    return torch.tensor([2, 0, 2, 0, 2, 2]), torch.tensor([1, 0, 0, 1, 2, 1]), masks


@pytest.mark.parametrize("with_valid", [False, True])
def test_mask_loss_equals_one_mask_per_query(with_valid: bool) -> None:
    image, instance, masks = pairs()
    logits = torch.randn(6, 8, 8, requires_grad=True)
    valid = torch.rand(3, 8, 8) > 0.3 if with_valid else None
    slow = []
    for n in range(6):
        p, t = logits[n].sigmoid(), quarter_masks(masks[image[n]], (8, 8))[instance[n]]
        if valid is not None:
            p, t = p[valid[image[n]]], t[valid[image[n]]]
        slow.append(1 - 2 * (p * t).sum() / ((p * p).sum() + 0.001 + (t * t).sum() + 0.001))
    losses = (mask_loss(logits, image, instance, masks, valid), torch.stack(slow).mean())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses), rtol=1e-4, atol=1e-6)


def test_epsilon_decides_what_an_empty_mask_costs() -> None:
    index = torch.zeros(1, dtype=torch.long)
    for epsilon in (1e-5, 2e-3, 1.0):
        loss = dice_losses(torch.full((1, 2, 2), -4.0), index, index, [torch.zeros(1, 2, 2)], epsilon=epsilon)
        assert loss.item() == 1.0
        loss = dice_losses(torch.full((1, 2, 2), 100.0), index, index, [torch.ones(1, 2, 2)], epsilon=epsilon)
        assert loss.item() == pytest.approx(1 - 8 / (8 + epsilon), abs=1e-6)


def test_mask_logits_equal_one_convolution_per_query() -> None:
    image, _, _ = pairs()
    kernels, features = torch.randn(6, 5, requires_grad=True), torch.randn(3, 5, 4, 7, requires_grad=True)
    slow = torch.stack([torch.einsum("d,dhw->hw", kernels[n], features[image[n]]) for n in range(6)])
    fast = mask_logits(kernels, image, features)
    torch.testing.assert_close(fast, slow)
    weight = torch.rand_like(slow)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), [kernels, features]) for x in (fast, slow)), strict=True):
        torch.testing.assert_close(a, b)


def test_without_queries_the_mask_loss_is_a_connected_zero() -> None:
    none = torch.zeros(0, dtype=torch.long)
    kernels, features = torch.zeros(0, 5, requires_grad=True), torch.randn(2, 5, 4, 4, requires_grad=True)
    masks = [torch.zeros(0, 16, 16, dtype=torch.bool)] * 2
    loss = mask_loss(mask_logits(kernels, none, features), none, none, masks)
    assert loss == 0
    gradients = torch.autograd.grad(loss, [kernels, features])
    assert all((gradient == 0).all() for gradient in gradients)


def test_class_loss_equals_dense_one_hot() -> None:
    logits = [(torch.randn(2, 3, s, s) * 3).requires_grad_() for s in (4, 2)]
    labels = torch.full((2, 20), 3)
    labels[0, 5], labels[0, 17], labels[1, 0], labels[1, 15], labels[1, 19] = 0, 2, 1, 2, 0
    flat = torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, 3) for level in logits], dim=1)
    target = torch.nn.functional.one_hot(labels, 4)[..., :3].float()
    dense = sigmoid_focal_loss(flat, target, alpha=0.25, gamma=2.0, reduction="sum") / 6
    torch.testing.assert_close(class_loss(logits, labels, 0.25, 2.0), dense)
    assert class_loss(logits, torch.full((2, 20), 3), 0.25, 2.0).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_float32_under_autocast(dtype: torch.dtype) -> None:
    image, instance, masks = pairs()
    kernels, features = torch.randn(6, 5), torch.randn(3, 5, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = mask_logits(kernels.to(dtype), image, features.to(dtype))
        loss = mask_loss(logits, image, instance, masks)
    assert logits.dtype == loss.dtype == torch.float32
    exact = mask_loss(mask_logits(kernels.to(dtype), image, features.to(dtype)), image, instance, masks)
    assert torch.equal(loss, exact)
