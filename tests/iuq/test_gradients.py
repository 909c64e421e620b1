"""The comparison of two losses' gradients, and that it leaves no trace."""

import math

import pytest
import torch

from adet_iuq.iuq import compare_gradients


def test_norms_and_angle_by_hand() -> None:
    x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    term, reference = 3 * x[0], x[0] + 2 * y[0]  # gradients (3, 0, 0) and (1, 0, 2)
    found = compare_gradients(term, reference, [x, y])
    assert found["gradient_ratio"].item() == pytest.approx(3 / math.sqrt(5))
    assert found["gradient_cosine"].item() == pytest.approx(1 / math.sqrt(5))
    opposed = compare_gradients(-reference / 100, reference, [x, y])
    assert opposed["gradient_ratio"].item() == pytest.approx(0.01)
    assert opposed["gradient_cosine"].item() == pytest.approx(-1)


def test_the_graph_is_kept_and_nothing_is_written() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x.square()
    compare_gradients(y.sum(), y.exp().sum(), [y])
    assert x.grad is None and y.grad_fn is not None
    (y.sum() + y.exp().sum()).backward()
    assert x.grad is not None


def test_a_term_without_gradient_is_zero_and_a_reference_without_one_no_measure() -> None:
    x = torch.ones(2, requires_grad=True)
    other = torch.ones((), requires_grad=True)
    for term in (torch.zeros(()), other * 1, x[:0].sum()):
        found = compare_gradients(term, x.sum(), [x])
        assert found["gradient_ratio"] == found["gradient_cosine"] == 0
    assert compare_gradients(x.sum(), 2 * other, [x]) == {}
    assert compare_gradients(x.sum(), torch.ones(()), [x]) == {}
    assert compare_gradients(x.sum(), x.sum(), [x.detach()]) == {}
    none = torch.zeros(0, 3, requires_grad=True)
    assert compare_gradients(none.sum(), none.sum(), [none]) == {}


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_gradients_whose_squares_float32_cannot_hold(size: float) -> None:
    """A collapsed model has such ones; a cosine of -2.5e10 was logged for it."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    found = compare_gradients(size * x.sum(), (x[0] - x[1]) + 2 * x[0], [x])
    assert found["gradient_cosine"].item() == pytest.approx((3 - 1) / math.sqrt(2 * 10))
    assert found["gradient_ratio"].item() == pytest.approx(size * math.sqrt(2 / 10))


def test_small_gradients_in_half_precision() -> None:
    """Of 2e-8 float16 keeps nothing."""
    x = torch.ones(4, dtype=torch.float16, requires_grad=True)
    found = compare_gradients(4e-8 * x.float().sum(), 2e-8 * x.float().sum(), [x])
    assert found["gradient_ratio"].item() == pytest.approx(2, rel=0.05)
    assert found["gradient_ratio"].dtype == torch.float32
