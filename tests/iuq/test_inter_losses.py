"""The pointwise losses of Eq. 5 and their slopes, against torch's own losses and against autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss  # type: ignore[import-untyped]

from adet_iuq.iuq import INTER_LOSSES, InterSceneLoss
from adet_iuq.iuq.inter_scene import fast_softplus
from helpers.inter_twins import slow_value_and_slope

LOGITS = torch.linspace(-12, 12, 97, dtype=torch.float64)


def _value_and_slope(name: str, logits: Tensor, **settings: float) -> tuple[Tensor, Tensor]:
    """As the loss calls it."""
    return InterSceneLoss(loss=name, **settings)._value_and_slope(logits)  # type: ignore[arg-type]


def _expected(name: str, logits: Tensor) -> Tensor:
    zeros = torch.zeros_like(logits)
    if name == "l1":
        return F.l1_loss(logits.sigmoid(), zeros, reduction="none")
    if name == "l2":
        return F.mse_loss(logits.sigmoid(), zeros, reduction="none")
    if name == "cross_entropy":
        return F.binary_cross_entropy_with_logits(logits, zeros, reduction="none")
    return sigmoid_focal_loss(logits, zeros, alpha=0.9, gamma=2.5)  # alpha 0.9 weighs negatives by 0.1


@pytest.mark.parametrize("name", INTER_LOSSES)
def test_equals_the_usual_loss_with_target_zero(name: str) -> None:
    torch.testing.assert_close(_value_and_slope(name, LOGITS)[0], _expected(name, LOGITS))


@pytest.mark.parametrize("name", INTER_LOSSES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.5])
def test_stable_for_large_logits(name: str, gamma: float) -> None:
    logits = torch.tensor([-1e4, -200.0, -90.0, 0.0, 20.5, 90.0, 1e4])
    values, gradient = _value_and_slope(name, logits, gamma=gamma)
    assert values.isfinite().all() and gradient.isfinite().all()
    assert (values >= 0).all() and (gradient >= 0).all()
    assert values[0] == 0 and values[-1] > 0


@pytest.mark.parametrize("name", INTER_LOSSES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_in_closed_form_equal_autograd(name: str, gamma: float, dtype: torch.dtype) -> None:
    logits = torch.cat([LOGITS, torch.tensor([-1e4, -200.0, -90.0, -40.0, 40.0, 90.0, 1e4])]).to(dtype)
    before = logits.clone()
    value, slope = _value_and_slope(name, logits, gamma=gamma)
    expected, expected_slope = slow_value_and_slope(name, logits.double(), gamma=gamma)
    # Relative: p^gamma of a large negative logit multiplies rounding by gamma |u|. Absolute: autograd's p (1 - p) of float64
    # is not known better where p is nearly 1.
    rtol = 3e-5 if dtype == torch.float32 else 1e-11
    for closed, differentiated in ((value, expected), (slope, expected_slope)):
        torch.testing.assert_close(closed.double(), differentiated, rtol=rtol, atol=1e-16)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fast_softplus_is_exact_to_rounding(dtype: torch.dtype) -> None:
    logits = torch.cat([torch.linspace(-120, 120, 24_001, dtype=dtype), torch.tensor([-1e4, 1e4], dtype=dtype)])
    exact = torch.log1p(torch.exp(-logits.double().abs())) + logits.double().clamp(min=0)
    torch.testing.assert_close(
        fast_softplus(logits).double(), exact, rtol=8 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny
    )


def test_focal_parameters() -> None:
    plain, _ = _value_and_slope("focal", LOGITS, gamma=0.0, neg_weight=1.0)
    torch.testing.assert_close(plain, _value_and_slope("cross_entropy", LOGITS)[0])
    light, heavy = (_value_and_slope("focal", LOGITS, neg_weight=weight)[0] for weight in (0.1, 0.9))
    torch.testing.assert_close(9 * light, heavy)
