"""Frozen norms that convolutions compute themselves."""

import copy
from collections.abc import Callable

import pytest
import torch
from detectron2.layers import BatchNorm2d, Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.config import load_config
from adet_iuq.modeling.backbone import build_backbone
from adet_iuq.modeling.backbone.folded import FoldedConv2d, fold_frozen_norms


def frozen_norm(channels: int) -> FrozenBatchNorm2d:
    """A norm that changes every channel."""
    norm = FrozenBatchNorm2d(channels)
    for buffer, low in ((norm.weight, 0.5), (norm.bias, -1.0), (norm.running_mean, -1.0), (norm.running_var, 0.5)):
        buffer.copy_(low + torch.rand(channels))
    return norm


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, F.relu])
def test_results_and_gradients_are_those_of_two_steps(
    bias: bool, activation: Callable[[Tensor], Tensor] | None
) -> None:
    torch.manual_seed(0)
    plain = Conv2d(4, 6, 3, padding=1, stride=2, groups=2, bias=bias, norm=frozen_norm(6), activation=activation)
    folded = copy.deepcopy(plain)
    fold_frozen_norms(nn.Sequential(folded))
    assert type(folded) is FoldedConv2d and folded.state_dict().keys() == plain.state_dict().keys()
    results = []
    for module in (plain, folded):
        x = torch.randn(2, 4, 9, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = module(x)
        out.square().sum().backward()
        results.append([out, x.grad, *(one.grad for one in module.parameters())])
    for ours, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_are_loaded_later_count() -> None:
    folded = nn.Sequential(Conv2d(3, 2, 1, norm=frozen_norm(2)))
    fold_frozen_norms(folded)
    other = nn.Sequential(Conv2d(3, 2, 1, norm=frozen_norm(2)))
    folded.load_state_dict(other.state_dict())
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(folded(x), other(x))


def test_other_norms_stay() -> None:
    trained, none = Conv2d(3, 2, 1, norm=BatchNorm2d(2)), Conv2d(3, 2, 1)
    fold_frozen_norms(nn.Sequential(trained, none))
    assert type(trained) is Conv2d and type(none) is Conv2d


def test_every_frozen_norm_of_a_trunk_is_folded() -> None:
    backbone = build_backbone(load_config("CondInst/R50_1x.yaml", ["MODEL.DEVICE", "cpu"]).cfg)
    kinds = [type(one) for one in backbone.modules()]
    assert kinds.count(FrozenBatchNorm2d) == kinds.count(FoldedConv2d) == 53
