"""N small networks of 1x1 convolutions on the same pixels: forward and backward pass of CondInst's dynamic filters.

Shapes: N queries, P pixels, D inputs, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def dynamic_layers(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """ReLU networks, one per query, on pixels that all queries share. Differentiable once.

    Args:
        inputs: (D, P), fastest if contiguous.
        weights: the layers' weights, (N, C, D), (N, C, C), ..., (N, 1, C).
        biases: the layers' biases, (N, C), ..., (N, 1).

    Returns:
        (N, P), as autograd over baddbmm and relu gives it, in about two thirds of the time: no bias is copied to all
        pixels, ReLU's backward pass works in place, and the gradient of the first weights is one wide product.
    """
    result: Tensor = _DynamicLayers.apply(inputs, len(weights), *weights, *biases)
    return result


class _DynamicLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, depth: int, *parameters: Tensor) -> Tensor:
        """Keeps the inputs, the weights and the hidden layers, (N, C, P) each."""
        weights, biases = parameters[:depth], parameters[depth:]
        count, channels, _ = weights[0].shape
        # One matrix product serves all queries.
        out = torch.addmm(biases[0].reshape(-1, 1), weights[0].flatten(0, 1), inputs).view(
            count, channels, inputs.shape[1]
        )
        hidden = []
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            hidden.append(out.relu_())
            out = torch.bmm(weight, out).add_(bias[:, :, None])
        ctx.save_for_backward(inputs, *weights, *hidden)
        ctx.depth = depth
        return out[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs (if wanted), of the weights and of the biases."""
        inputs, *saved = ctx.saved_tensors
        weights, hidden = saved[: ctx.depth], saved[ctx.depth :]
        grad = grad[:, None]
        grad_weights, grad_biases = [], [grad.sum(2)]
        for weight, below in zip(weights[:0:-1], hidden[::-1], strict=True):
            grad_weights.append(torch.bmm(grad, below.transpose(1, 2)))
            grad = torch.bmm(weight.transpose(1, 2), grad)
            torch.ops.aten.threshold_backward.grad_input(grad, below, 0, grad_input=grad)
            grad_biases.append(grad.sum(2))
        rows = grad.flatten(0, 1)
        # Transposed twice, because matrix libraries are fast if the long side, the channels of all queries, comes here.
        grad_weights.append((inputs @ rows.T).T.reshape(weights[0].shape))
        grad_inputs = weights[0].flatten(0, 1).T @ rows if ctx.needs_input_grad[0] else None
        return grad_inputs, None, *grad_weights[::-1], *grad_biases[::-1]
