"""Inter-scene losses on logits whose target is zero everywhere (Table 4a), their normalisers, and the ramp.

u is a logit <q_n, i'>, p = sigmoid(u) its probability. A query n may be asked about a pixel when the pixel's slot is
filled (id >= 0) and the pixel comes from another image than the query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Normalizer = Callable[[Tensor, Tensor], Tensor]


class ElementwiseLoss:
    """A loss of each logit by itself; a subclass defines its value and may give its slope in closed form."""

    def __call__(self, logits: Tensor) -> Tensor:
        """The loss of logits of any shape, elementwise and differentiable."""
        raise NotImplementedError

    def value_and_slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its derivative with respect to each logit, both without graph; `logits` is left as it is."""
        with torch.enable_grad():
            point = logits.detach().requires_grad_()
            value = self(point)
            (slope,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), slope


class L1Loss(ElementwiseLoss):
    """|p - 0|."""

    def __call__(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def value_and_slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        p, complement = _probabilities(logits)
        return p, p * complement


class L2Loss(ElementwiseLoss):
    """(p - 0)^2."""

    def __call__(self, logits: Tensor) -> Tensor:
        return logits.sigmoid().square()

    def value_and_slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        p, complement = _probabilities(logits)
        value = p.square()
        return value, 2 * value * complement


class CrossEntropyLoss(ElementwiseLoss):
    """-log(1 - p) = softplus(u)."""

    def __call__(self, logits: Tensor) -> Tensor:
        return F.softplus(logits)

    def value_and_slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return fast_softplus(logits), logits.detach().sigmoid()


@dataclass(frozen=True)
class FocalLoss(ElementwiseLoss):
    """neg_weight * p^gamma * softplus(u): the focal loss of a negative.

    Args:
        gamma: focusing exponent, section 3.3 of the paper.
        neg_weight: 1 - alpha in the usual convention (the paper's alpha is 0.1).
    """

    gamma: float = 2.5
    neg_weight: float = 0.9

    def __call__(self, logits: Tensor) -> Tensor:
        cross_entropy = F.softplus(logits)
        # p^gamma as exp(gamma log p), log p = u - softplus(u): its gradient stays finite for any gamma where p
        # underflows.
        return self.neg_weight * (torch.exp(self.gamma * (logits - cross_entropy)) * cross_entropy)

    def value_and_slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """With s = softplus(u): neg_weight * p^gamma * s, and neg_weight * p^gamma * (gamma * (1 - p) * s + p)."""
        p, complement = _probabilities(logits)
        cross_entropy = fast_softplus(logits)
        power = (logits.detach() - cross_entropy).mul_(self.gamma).exp_().mul_(self.neg_weight)
        slope = complement.mul_(cross_entropy).mul_(self.gamma).add_(p).mul_(power)
        return power.mul_(cross_entropy), slope


def _probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """p and 1 - p without graph; the difference itself would lose its digits where p is nearly 1."""
    return logits.detach().sigmoid(), logits.detach().neg().sigmoid_()


def fast_softplus(logits: Tensor) -> Tensor:
    """log(1 + e^u), elementwise, to rounding; without graph.

    On the CPU with Kahan's log1p(t) = log(w) t / (w - 1), w = 1 + t: torch's own log1p takes three times as long as all
    of these together.
    """
    logits = logits.detach()
    if logits.device.type != "cpu":
        return F.softplus(logits)
    t = logits.abs().neg_().exp_()
    w = 1 + t
    log1p = torch.where(w == 1, t, w.log().mul_(t).div_(w - 1))
    return log1p.add_(logits.clamp(min=0))


def build_inter_loss(name: str, *, gamma: float = 2.5, neg_weight: float = 0.9) -> ElementwiseLoss:
    """The elementwise loss of that name; gamma and neg_weight belong to "focal". ValueError for an unknown name."""
    if name not in INTER_LOSSES:
        raise ValueError(f"Unknown inter-scene loss '{name}'; choose one of {', '.join(INTER_LOSSES)}.")
    return FocalLoss(gamma, neg_weight) if name == "focal" else INTER_LOSSES[name]()


def count_images(pixel_ids: Tensor, chunk: int = 2**17) -> tuple[Tensor, Tensor]:
    """Ids of the images in a memory, ascending, and the number of pixels of each, both (images,) long.

    Args:
        pixel_ids: (P,) long, -1 for an empty slot.
        chunk: so many pixels are sorted at a time, to bound the memory that takes.
    """
    ids = counts = pixel_ids.new_zeros(0)
    for part in pixel_ids.split(chunk):
        part_ids, part_counts = torch.unique(part[part >= 0], return_counts=True)
        ids, place = torch.unique(torch.cat([ids, part_ids]), return_inverse=True)
        counts = torch.zeros_like(ids).index_add(0, place, torch.cat([counts, part_counts]))
    return ids, counts


def count_foreign(query_ids: Tensor, pixel_ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each query the number of valid pixels and of images they come from.

    Args:
        query_ids: (Q,) long, image of each query.
        pixel_ids: (P,) long, image of each pixel, -1 for an empty slot.

    Returns:
        Two (Q,) long tensors.
    """
    ids, counts = count_images(pixel_ids)
    if len(ids) == 0:
        return torch.zeros_like(query_ids), torch.zeros_like(query_ids)
    # Binary search instead of a (Q, P) comparison: the cost stays far below the loss's own.
    position = torch.searchsorted(ids, query_ids).clamp(max=len(ids) - 1)
    own = ids[position] == query_ids
    return counts.sum() - counts[position] * own, len(ids) - own.long()


def pixel_weights(query_ids: Tensor, pixel_ids: Tensor) -> Tensor:
    """Mean over all valid (query, pixel) pairs: one weight for all, (Q,) float32; 0 without a valid pair."""
    pixels, _ = count_foreign(query_ids, pixel_ids)
    return torch.where(pixels > 0, 1.0 / pixels.sum().clamp(min=1), 0.0)


def image_weights(query_ids: Tensor, pixel_ids: Tensor) -> Tensor:
    """Sum over the pixels of each foreign image, mean over foreign images (Eq. 5), mean over all Q queries.

    (Q,) float32; 0 for a query without a foreign image.
    """
    _, images = count_foreign(query_ids, pixel_ids)
    return torch.where(images > 0, 1.0 / (images.clamp(min=1) * max(len(query_ids), 1)), 0.0)


def ramp_weight(iteration: int, *, weight: float, start_iter: int, ramp_iters: int) -> float:
    """0 before `start_iter`, then linear up to `weight`, which is reached after `ramp_iters` iterations."""
    if iteration < start_iter:
        return 0.0
    return weight * min((iteration - start_iter + 1) / max(ramp_iters, 1), 1.0)


INTER_LOSSES: dict[str, type[ElementwiseLoss]] = {
    "l1": L1Loss,
    "l2": L2Loss,
    "cross_entropy": CrossEntropyLoss,
    "focal": FocalLoss,
}
NORMALIZERS: dict[str, Normalizer] = {"pixel": pixel_weights, "image": image_weights}
