"""Values against torch's own losses, stability, normalisers against loops, the ramp."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss  # type: ignore[import-untyped]

from adet_iuq.iuq import INTER_LOSSES, NORMALIZERS, build_inter_loss, ramp_weight
from adet_iuq.iuq.losses import ElementwiseLoss, count_images, fast_softplus

LOGITS = torch.linspace(-12, 12, 97, dtype=torch.float64)


def _expected(name: str, logits: Tensor) -> Tensor:
    zeros = torch.zeros_like(logits)
    if name == "l1":
        return F.l1_loss(logits.sigmoid(), zeros, reduction="none")
    if name == "l2":
        return F.mse_loss(logits.sigmoid(), zeros, reduction="none")
    if name == "cross_entropy":
        return F.binary_cross_entropy_with_logits(logits, zeros, reduction="none")
    return sigmoid_focal_loss(logits, zeros, alpha=0.1, gamma=2.5)  # alpha 0.1 weighs negatives by 0.9


@pytest.mark.parametrize("name", INTER_LOSSES)
def test_equals_the_usual_loss_with_target_zero(name: str) -> None:
    torch.testing.assert_close(build_inter_loss(name)(LOGITS), _expected(name, LOGITS))


@pytest.mark.parametrize("name", INTER_LOSSES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.5])
def test_stable_for_large_logits(name: str, gamma: float) -> None:
    logits = torch.tensor([-1e4, -200.0, -90.0, 0.0, 20.5, 90.0, 1e4], requires_grad=True)
    values = build_inter_loss(name, gamma=gamma)(logits)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert values.isfinite().all() and gradient.isfinite().all()
    assert (values >= 0).all() and (gradient >= 0).all()
    assert values[0] == 0 and values[-1] > 0


@pytest.mark.parametrize("name", INTER_LOSSES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_in_closed_form_equal_autograd(name: str, gamma: float, dtype: torch.dtype) -> None:
    logits = torch.cat([LOGITS, torch.tensor([-1e4, -200.0, -90.0, -40.0, 40.0, 90.0, 1e4])]).to(dtype).requires_grad_()
    before = logits.detach().clone()
    loss = build_inter_loss(name, gamma=gamma)
    value, slope = loss.value_and_slope(logits)
    expected, expected_slope = ElementwiseLoss.value_and_slope(loss, logits.double())
    # Relative: p^gamma of a large negative logit multiplies rounding by gamma |u|. Absolute: autograd's p (1 - p) of float64
    # is not known better where p is nearly 1.
    rtol = 3e-5 if dtype == torch.float32 else 1e-11
    for closed, differentiated in ((value, expected), (slope, expected_slope)):
        torch.testing.assert_close(closed.double(), differentiated, rtol=rtol, atol=1e-16)
    assert not value.requires_grad and not slope.requires_grad
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fast_softplus_is_exact_to_rounding(dtype: torch.dtype) -> None:
    logits = torch.cat([torch.linspace(-120, 120, 24_001, dtype=dtype), torch.tensor([-1e4, 1e4], dtype=dtype)])
    exact = torch.log1p(torch.exp(-logits.double().abs())) + logits.double().clamp(min=0)
    torch.testing.assert_close(
        fast_softplus(logits).double(), exact, rtol=8 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny
    )


def test_focal_parameters() -> None:
    plain = build_inter_loss("focal", gamma=0.0, neg_weight=1.0)(LOGITS)
    torch.testing.assert_close(plain, build_inter_loss("cross_entropy")(LOGITS))
    light, heavy = (build_inter_loss("focal", neg_weight=weight)(LOGITS) for weight in (0.1, 0.9))
    torch.testing.assert_close(9 * light, heavy)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"'dice'.*l1, l2, cross_entropy, focal"):
        build_inter_loss("dice")


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
    value = (loss * valid).sum(dim=1) @ NORMALIZERS[name](query_ids, pixels)
    assert value.item() == pytest.approx(_normalised_by_loops(name, query_ids, pixels, loss), rel=1e-5)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normaliser_without_queries_or_pixels(name: str) -> None:
    none, some = torch.zeros(0, dtype=torch.long), torch.tensor([1, 2])
    assert NORMALIZERS[name](none, some).shape == (0,)
    assert NORMALIZERS[name](some, none).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_count_images_in_chunks(chunk: int) -> None:
    ids = torch.randint(-1, 9, (100,), generator=torch.Generator().manual_seed(0))
    counted = Counter(image for image in ids.tolist() if image >= 0)
    images, counts = count_images(ids, chunk)
    assert images.tolist() == sorted(counted)
    assert counts.tolist() == [counted[image] for image in images.tolist()]


def test_ramp() -> None:
    weights = [ramp_weight(i, weight=2.0, start_iter=3, ramp_iters=4) for i in range(9)]
    assert weights == [0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert ramp_weight(0, weight=2.0, start_iter=0, ramp_iters=0) == 2.0
