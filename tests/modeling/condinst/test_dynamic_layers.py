"""The hand-written passes of the dynamic filters against autograd over one small network after another."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from adet_iuq.modeling.condinst.dynamic_layers import dynamic_layers


def literal_layers(inputs: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Query by query, layer by layer."""
    results = []
    for query in range(len(weights[0])):
        out = inputs
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            out = weight[query] @ (out.relu() if layer else out) + bias[query][:, None]
        results.append(out[0])
    return torch.stack(results) if results else inputs[:0]


def parameters(queries: int, depth: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of `depth` layers on 5 inputs, 4 channels in between, as views of one tensor."""
    torch.manual_seed(0)
    widths = [5] + [4] * (depth - 1) + [1]
    weights = [torch.randn(queries, o, i, dtype=dtype).requires_grad_() for i, o in pairwise(widths)]
    biases = [torch.randn(queries, o, dtype=dtype).requires_grad_() for o in widths[1:]]
    return weights, biases


@pytest.mark.parametrize(("queries", "pixels", "depth"), [(3, 7, 3), (1, 1, 2), (4, 9, 1), (0, 5, 3), (3, 0, 3)])
def test_equals_autograd(queries: int, pixels: int, depth: int) -> None:
    weights, biases = parameters(queries, depth, torch.float64)
    inputs = torch.randn(5, pixels, dtype=torch.float64).requires_grad_()
    outputs = [layers(inputs, weights, biases) for layers in (dynamic_layers, literal_layers)]
    torch.testing.assert_close(*outputs)
    leaves = [inputs, *weights, *biases]
    factor = torch.randn_like(outputs[0])
    fast, slow = (torch.autograd.grad((out * factor).sum(), leaves, allow_unused=True) for out in outputs)
    for leaf, one, other in zip(leaves, fast, slow, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(leaf) if other is None else other)


def test_inputs_that_want_no_gradient_get_none_and_a_kept_graph_serves_twice() -> None:
    weights, biases = parameters(3, 3, torch.float32)
    inputs = torch.randn(5, 8)
    out = dynamic_layers(inputs, weights, biases)
    first, second = (torch.autograd.grad(out.sum(), weights, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) and inputs.grad is None
