"""Inter-scene losses on logits whose target is zero everywhere (Table 4a), their normalisers, and the ramp.

u is a logit <q_n, i'>, p = sigmoid(u) its probability. A query n may be asked about a pixel when the pixel's slot is
filled (id >= 0) and the pixel comes from another image than the query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .distributed import sum_over_ranks, world_size

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


class ImageCounts(NamedTuple):
    """Which images a memory holds, and how many pixels of each."""

    ids: Tensor  # (images,) long, ascending
    counts: Tensor  # (images,) long, at least 1 each

    @staticmethod
    def sum(ids: Tensor, counts: Tensor) -> ImageCounts:
        """From ids (n,) long that may come several times, and the number of pixels that goes with each (n,) long."""
        ids, place = torch.unique(ids, return_inverse=True)
        return ImageCounts(ids, torch.zeros_like(ids).index_add(0, place, counts))

    def foreign(self, query_ids: Tensor) -> tuple[Tensor, Tensor]:
        """For the image of each query, (Q,) long: the number of pixels and of images that are not its own, (Q,) long."""
        if len(self.ids) == 0:
            return torch.zeros_like(query_ids), torch.zeros_like(query_ids)
        # Binary search instead of a (Q, P) comparison: the cost stays far below the loss's own.
        position = torch.searchsorted(self.ids, query_ids).clamp(max=len(self.ids) - 1)
        own = self.ids[position] == query_ids
        return self.counts.sum() - self.counts[position] * own, len(self.ids) - own.long()


def count_images(pixel_ids: Tensor, chunk: int = 2**17) -> ImageCounts:
    """The images in a memory.

    Args:
        pixel_ids: (P,) long, -1 for an empty slot.
        chunk: so many pixels are sorted at a time, to bound the memory that takes.
    """
    total = ImageCounts(pixel_ids.new_zeros(0), pixel_ids.new_zeros(0))
    for part in pixel_ids.split(chunk):
        ids, counts = torch.unique(part[part >= 0], return_counts=True)
        total = ImageCounts.sum(torch.cat([total.ids, ids]), torch.cat([total.counts, counts]))
    return total


def query_weights(name: str, query_ids: Tensor, images: ImageCounts, *, reduce: bool = False) -> Tensor:
    """What each query's loss, summed over all foreign pixels of the memory, is multiplied by.

    Args:
        name: "pixel": mean over all valid (query, pixel) pairs; "image": sum over the pixels of each foreign image, mean
            over foreign images (Eq. 5), mean over all Q queries.
        query_ids: (Q,) long, image of each query.
        images: of the whole memory.
        reduce: pairs or queries are counted as their mean over ranks instead of on this one, so that the average of
            the ranks' losses is the loss of one process that has all queries; a collective call then.

    Returns:
        (Q,) float32; 0 for a query without a foreign pixel.
    """
    pixels, foreign = images.foreign(query_ids)
    if name == "pixel":
        shares, total = (pixels > 0).float(), pixels.sum()
    else:
        shares = torch.where(foreign > 0, 1.0 / foreign.clamp(min=1), 0.0)
        total = torch.tensor(len(query_ids), device=query_ids.device)
    if not reduce:
        return shares / total.clamp(min=1)
    return shares * world_size() / sum_over_ranks(total).clamp(min=1)


def pixel_weights(query_ids: Tensor, pixel_ids: Tensor) -> Tensor:
    """`query_weights` "pixel" of queries (Q,) on a memory whose slots have the image ids (P,), -1 where empty."""
    return query_weights("pixel", query_ids, count_images(pixel_ids))


def image_weights(query_ids: Tensor, pixel_ids: Tensor) -> Tensor:
    """`query_weights` "image", likewise."""
    return query_weights("image", query_ids, count_images(pixel_ids))


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
