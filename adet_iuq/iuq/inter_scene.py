"""The inter-scene loss (Eq. 5): no query may retrieve a pixel of another image.

u is a logit <q_n, i'>, p = sigmoid(u) is its probability, and the target of every pair is zero. Query n is paired with
a pixel if the pixel's slot is filled (id >= 0) and the pixel comes from another image than the query.

The memory takes no gradient, so the gradient of the queries is a plain sum over pixels. It is accumulated chunk by
chunk during the forward pass, which is exact, and nothing of a chunk is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .distributed import sum_over_ranks, world_size
from .structures import Pixels, Queries

Retrieve = Callable[[Queries, Pixels], Tensor]

NORMALIZERS = ("pixel", "image")
# The number of floats that the loss itself holds for each (query, pixel) pair: logit, loss, intermediates, gradients.
_LOSS_FLOATS_PER_PAIR = 8
# On a CPU a chunk should fit in the cache; on a GPU few kernels should be launched (docs/performance.md).
_CPU_CHUNK_BYTES, _GPU_CHUNK_BYTES = 16 * 1024**2, 128 * 1024**2


class InterLoss(NamedTuple):
    """The loss, and how often queries fire (logit > 0), which has no gradient. All tensors are scalars."""

    value: Tensor  # float32 (float64 for float64 queries)
    num_pairs: Tensor  # long, number of valid (query, foreign pixel) pairs
    num_fired: Tensor  # long, number of those that fire
    num_own_pairs: Tensor  # long, number of pairs of a query and a pixel of its own image, which the loss leaves out
    num_own_fired: Tensor  # long, number of those that fire


@dataclass(frozen=True, kw_only=True)
class InterSceneLoss:
    """Eq. 5 and its settings.

    Raises:
        ValueError: the loss or the normalizer is unknown.
    """

    loss: str = "focal"  # Table 4a: "l1", "l2", "cross_entropy", "focal"
    gamma: float = 2.5  # focusing exponent of "focal" (section 3.3)
    neg_weight: float = 0.1  # factor of "focal" (all are negatives): the paper's alpha (0.9 if it weighs positives)
    normalizer: str = "pixel"  # "pixel" or "image", see `weigh_queries`
    weight: float = 1.0  # final weight of the whole term, see `ramp`
    start_iter: int = 0
    ramp_iters: int = 0
    max_queries: int = -1  # number of queries of a step that take part, see `cap_queries`
    sample: int = -1  # number of pixels of the memory that take part, see `PixelMemory.sample`
    chunk_bytes: int = 0  # bytes that one chunk may take; 0: 16 MiB on the CPU, 128 MiB elsewhere

    def __post_init__(self) -> None:
        if self.loss not in INTER_LOSSES:
            raise ValueError(f"Unknown inter-scene loss '{self.loss}'; choose one of {', '.join(INTER_LOSSES)}.")
        if self.normalizer not in NORMALIZERS:
            raise ValueError(f"Unknown normalizer '{self.normalizer}'; choose one of {', '.join(NORMALIZERS)}.")

    def ramp(self, iteration: int) -> float:
        """The term's weight: 0 before `start_iter`, then rising linearly to `weight` within `ramp_iters` iterations."""
        if iteration < self.start_iter:
            return 0.0
        return self.weight * min((iteration - self.start_iter + 1) / max(self.ramp_iters, 1), 1.0)

    def weigh_queries(self, foreign_pixels: Tensor, foreign_images: Tensor, *, reduce: bool = False) -> Tensor:
        """The factor of each query's loss, which is summed over all foreign pixels of the memory.

        "pixel": mean over all valid (query, pixel) pairs. "image": sum over the pixels of each foreign image, then mean over
        foreign images, then mean over all Q queries; a pixel of an image that was stored v times then weighs 1 / v.

        Args:
            foreign_pixels: (Q,) long, the number of pixels in the whole memory that come from other images.
            foreign_images: (Q,) long, the number of those other images.
            reduce: whether pairs or queries are counted as their mean over the ranks instead of on this rank alone. The
                ranks' losses then average to that of one process with all queries; it is a collective call then.

        Returns:
            (Q,) float32, which is 0 for a query without a foreign pixel.
        """
        if self.normalizer == "pixel":
            shares, total = (foreign_pixels > 0).float(), foreign_pixels.sum()
        else:
            shares = torch.where(foreign_images > 0, 1.0 / foreign_images.clamp(min=1), 0.0)
            total = torch.tensor(len(foreign_images), device=foreign_images.device)
        if not reduce:
            return shares / total.clamp(min=1)
        return shares * world_size() / sum_over_ranks(total).clamp(min=1)

    def __call__(
        self,
        queries: Queries,
        query_ids: Tensor,
        pixels: Pixels,
        retrieve: Retrieve,
        *,
        query_weights: Tensor,
        pixel_weights: Tensor | None = None,
        bytes_per_pair: int = 0,
    ) -> InterLoss:
        """The loss of all queries on all pixels of other images, whose target is zero, before the factor of `ramp`.

        It is computed outside autocast in float32 (float64 if the embeddings are). The gradient reaches
        `queries.embeddings` only. It is differentiable once: a second derivative raises RuntimeError.

        Args:
            queries: Q queries.
            query_ids: (Q,) long, the image id of each query; pixels of a query's own image are left out.
            pixels: P pixels of any floating dtype. The id -1 marks empty slots, which never count.
            retrieve: the function that gives (Q, P) logits; it is called with parts of `pixels`.
            query_weights: (Q,) float, the factor of each query's sum over the pixels (`weigh_queries`).
            pixel_weights: (P,) float, the number of pixels that each one stands for (`PixelMemory.sample`), divided by
                how often its image was stored where each image counts once. None: each pixel stands for itself.
            bytes_per_pair: the segmenter's `Retriever.bytes_per_pair`. It changes the loss by rounding only.
        """
        embeddings = queries.embeddings
        with_gradient = torch.is_grad_enabled() and embeddings.requires_grad
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
            queries = queries.select(slice(None)).to(dtype=dtype)  # slices that are made under no_grad have no graph
            query_weights = query_weights.to(dtype)
            gradient = torch.zeros_like(queries.embeddings)
            value = gradient.new_zeros(())
            counts = torch.zeros(4, dtype=torch.long, device=gradient.device)
            size = self._chunk_size(queries, pixels, bytes_per_pair)
            for start in range(0, len(pixels) if len(queries) else 0, size):
                part = pixels.select(slice(start, start + size)).to(dtype=dtype)
                with torch.set_grad_enabled(with_gradient):
                    point = queries.embeddings.detach().requires_grad_(with_gradient)
                    logits = retrieve(replace(queries, embeddings=point), part)
                per_pair, slope = self._value_and_slope(logits.detach().to(dtype))
                left_out, chunk_counts = _examine(logits.detach() > 0, query_ids, part.image_ids)
                counts += chunk_counts
                per_pair.masked_fill_(left_out, 0.0)
                if pixel_weights is None:
                    value += per_pair.sum(dim=1) @ query_weights
                    slope.mul_(query_weights[:, None])
                else:
                    shares = pixel_weights[start : start + size].to(dtype)
                    value += per_pair @ shares @ query_weights
                    slope.mul_(query_weights[:, None] * shares)
                slope.masked_fill_(left_out, 0.0)
                # The slope is known by now; autograd only carries it back through the retrieval. That is skipped if every
                # slope is 0, because no query of the chunk comes near to firing (or all pairs are left out).
                if with_gradient and slope.any():
                    gradient += torch.autograd.grad(logits, point, slope.to(logits.dtype))[0]
        if with_gradient:
            value = known_gradient(embeddings, value, gradient)
        return InterLoss(value, *counts.unbind())

    def _value_and_slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        settings = (self.gamma, self.neg_weight) if self.loss == "focal" else ()
        return INTER_LOSSES[self.loss](logits, *settings)

    def _chunk_size(self, queries: Queries, pixels: Pixels, bytes_per_pair: int) -> int:
        on_cpu = pixels.features.device.type == "cpu"
        chunk_bytes = self.chunk_bytes or (_CPU_CHUNK_BYTES if on_cpu else _GPU_CHUNK_BYTES)
        per_pixel = len(queries) * (bytes_per_pair + 4 * _LOSS_FLOATS_PER_PAIR) + 8 * pixels.features.shape[1]
        return max(1, chunk_bytes // max(per_pixel, 1))


# Each loss gives its value and its slope, elementwise. 1 - p is computed as sigmoid(-u), as p near 1 has no digits left.


def l1_loss(logits: Tensor) -> tuple[Tensor, Tensor]:
    """|p - 0|; slope p (1 - p)."""
    p = logits.sigmoid()
    return p, p * logits.neg().sigmoid_()


def l2_loss(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(p - 0)^2; slope 2 p^2 (1 - p)."""
    value = logits.sigmoid().square()
    return value, 2 * value * logits.neg().sigmoid_()


def cross_entropy_loss(logits: Tensor) -> tuple[Tensor, Tensor]:
    """-log(1 - p) = softplus(u); slope p."""
    return fast_softplus(logits), logits.sigmoid()


def focal_loss(logits: Tensor, gamma: float, neg_weight: float) -> tuple[Tensor, Tensor]:
    """The focal loss of a negative: neg_weight * p^gamma * s with s = softplus(u).

    The slope is neg_weight * p^gamma * (gamma * (1 - p) * s + p), and p^gamma = exp(gamma (u - s)).
    """
    cross_entropy = fast_softplus(logits)
    power = (logits - cross_entropy).mul_(gamma).exp_().mul_(neg_weight)
    slope = logits.neg().sigmoid_().mul_(cross_entropy).mul_(gamma).add_(logits.sigmoid()).mul_(power)
    return power.mul_(cross_entropy), slope


def fast_softplus(logits: Tensor) -> Tensor:
    """log(1 + e^u), elementwise, exact to rounding.

    On the CPU it is computed with Kahan's log1p(t) = log(w) t / (w - 1), w = 1 + t, because torch's own log1p takes
    three times as long as all of these operations together.
    """
    if logits.device.type != "cpu":
        return F.softplus(logits)
    t = logits.abs().neg_().exp_()
    w = 1 + t
    log1p = torch.where(w == 1, t, w.log().mul_(t).div_(w - 1))
    return log1p.add_(logits.clamp(min=0))


INTER_LOSSES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "l1": l1_loss,
    "l2": l2_loss,
    "cross_entropy": cross_entropy_loss,
    "focal": focal_loss,
}


def _examine(fired: Tensor, query_ids: Tensor, pixel_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs (Q, P) bool that the loss leaves out; and the four counts of `InterLoss`, in its order, (4,) long."""
    filled = (pixel_ids >= 0)[None]
    own = (query_ids[:, None] == pixel_ids[None]) & filled
    own_pairs, own_fired = own.sum(), (fired & own).sum()
    pairs, all_fired = filled.sum() * len(own), (fired & filled).sum()
    return own | ~filled, torch.stack([pairs - own_pairs, all_fired - own_fired, own_pairs, own_fired])


def known_gradient(embeddings: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """The scalar `value` as a function of embeddings (Q, d) whose gradient (Q, d) is known; differentiable once."""
    # once_differentiable notices a second derivative only if the incoming gradient has a graph; this factor gives it one.
    one = 1 + embeddings[:0].to(value.dtype).sum()
    known: Tensor = _KnownGradient.apply(embeddings, value, gradient)
    return one * known


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = embeddings.dtype
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (grad_output * gradient).to(ctx.dtype), None, None
