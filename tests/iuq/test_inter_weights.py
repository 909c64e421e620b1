"""The weights of Eq. 5: each query's, against loops, and the whole term's ramp; and unknown names, which are refused."""

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import NORMALIZERS, InterSceneLoss
from adet_iuq.iuq.image_counts import count_images
from helpers.inter_twins import slow_weights


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"inter-scene loss 'dice'.*l1, l2, cross_entropy, focal"):
        InterSceneLoss(loss="dice")
    with pytest.raises(ValueError, match=r"normalizer 'sum'.*pixel, image"):
        InterSceneLoss(normalizer="sum")


def _weights(normalizer: str, query_ids: Tensor, pixel_ids: Tensor) -> Tensor:
    """The library's weights, (Q,)."""
    return InterSceneLoss(normalizer=normalizer).weigh_queries(*count_images(pixel_ids).foreign(query_ids))


def _normalised_by_loops(name: str, query_ids: Tensor, pixel_ids: Tensor, loss: Tensor) -> float:
    """The two readings of Eq. 5, word for word."""
    total, pairs = 0.0, 0
    for n, own in enumerate(query_ids.tolist()):
        images: dict[int, float] = {}
        for p, image in enumerate(pixel_ids.tolist()):
            if image not in (-1, own):
                images[image] = images.get(image, 0.0) + float(loss[n, p])
                pairs += 1
        if name == "pixel":
            total += sum(images.values())
        elif images:
            total += sum(images.values()) / len(images) / len(query_ids)
    return total / max(pairs, 1) if name == "pixel" else total


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize(
    "pixel_ids", [[-1, 3, 3, 5, 5, 5, 8, -1], [3, 3, 3, 3, 3, 3, -1, -1], [-1] * 8, [2, 2, 4, 4, 6, 6, 6, 6]]
)
def test_normaliser_equals_loops(name: str, pixel_ids: list[int]) -> None:
    query_ids, pixels = torch.tensor([3, 3, 8, 7]), torch.tensor(pixel_ids)
    loss = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
    valid = (query_ids[:, None] != pixels) & (pixels >= 0)
    torch.testing.assert_close(_weights(name, query_ids, pixels), slow_weights(name, query_ids, pixels))
    value = (loss * valid).sum(dim=1) @ _weights(name, query_ids, pixels)
    assert value.item() == pytest.approx(_normalised_by_loops(name, query_ids, pixels, loss), rel=1e-5)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normaliser_without_queries_or_pixels(name: str) -> None:
    none, some = torch.zeros(0, dtype=torch.long), torch.tensor([1, 2])
    assert _weights(name, none, some).shape == (0,)
    assert _weights(name, some, none).tolist() == [0.0, 0.0]


def test_ramp() -> None:
    weights = [InterSceneLoss(weight=2.0, start_iter=3, ramp_iters=4).ramp(i) for i in range(9)]
    assert weights == [0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert InterSceneLoss(weight=2.0, start_iter=0, ramp_iters=0).ramp(0) == 2.0
