"""Eq. 5: values and slopes against torch's own losses, weights against loops, the chunked sum against plain autograd."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss  # type: ignore[import-untyped]

from adet_iuq.iuq import INTER_LOSSES, NORMALIZERS, InterLoss, InterSceneLoss, Pixels, Queries
from adet_iuq.iuq.image_counts import count_images
from adet_iuq.iuq.inter_scene import fast_softplus
from helpers.inter_twins import slow_inter_loss, slow_value_and_slope, slow_weights

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["dynamic", "dot"]
SMALL_CHUNK = 30_000  # bytes: several chunks at the sizes used here
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


def literal_dynamic_filter(queries: Queries, pixels: Pixels) -> Tensor:
    """CondInst's head word for word (docs/parity/condinst.md, "Dynamic head"), all pairs written out, (Q, P)."""
    count, theta = len(queries), queries.embeddings
    w0, w1, w2 = (
        theta[:, :80].view(count, 8, 10),
        theta[:, 80:144].view(count, 8, 8),
        theta[:, 144:152].view(count, 1, 8),
    )
    b0, b1, b2 = theta[:, 152:160], theta[:, 160:168], theta[:, 168:169]
    relative = queries.context["location"][:, None] - pixels.locations[None]
    relative = relative / queries.context["scale"][:, None, None]
    inputs = torch.cat([relative, pixels.features[None].expand(count, -1, -1)], dim=2)
    hidden = (torch.einsum("qoc,qpc->qpo", w0, inputs) + b0[:, None]).relu()
    hidden = (torch.einsum("qoc,qpc->qpo", w1, hidden) + b1[:, None]).relu()
    return (torch.einsum("qoc,qpc->qpo", w2, hidden) + b2[:, None]).squeeze(2)


def literal_dot(queries: Queries, pixels: Pixels) -> Tensor:
    """Sum of products, (Q, P)."""
    return (queries.embeddings[:, None] * pixels.features[None]).sum(dim=2)


def plain_loss(queries: Queries, ids: Tensor, pixels: Pixels, kind: str, loss: str, normalizer: str) -> Tensor:
    """Eq. 5 over all pairs at once, by ordinary autograd."""
    logits = (literal_dynamic_filter if kind == "dynamic" else literal_dot)(queries, pixels)
    return slow_inter_loss(logits, ids, pixels.image_ids, loss=loss, normalizer=normalizer)


def inputs(kind: str, *, queries: int = 7, pixels: int = 300, dtype: torch.dtype = torch.float32) -> Any:
    """Random queries of images 0 to 3, pixels of images -1 (empty) to 5; logits of a few units."""
    generator = torch.Generator().manual_seed(3)
    dim, pixel_dim = (169, 8) if kind == "dynamic" else (16, 16)
    ids = torch.randint(4, (queries,), generator=generator)
    embeddings = torch.randn(queries, dim, generator=generator, dtype=dtype).mul(0.5).requires_grad_()
    context = {
        "location": 300 * torch.rand(queries, 2, generator=generator),
        "scale": torch.tensor([64.0, 128.0]).repeat(queries)[:queries],
    }
    memory = Pixels(
        torch.randn(pixels, pixel_dim, generator=generator, dtype=dtype),
        300 * torch.rand(pixels, 2, generator=generator),
        torch.randint(-1, 6, (pixels,), generator=generator),
    )
    return Queries(embeddings, ids, torch.zeros_like(ids), context), ids, memory


def run(
    benchmark: ModuleType,
    kind: str,
    queries: Queries,
    ids: Tensor,
    pixels: Pixels,
    chunk_bytes: int = SMALL_CHUNK,
    **settings: Any,
) -> InterLoss:
    """The library's loss with the benchmark's (factored) retrieval."""
    return evaluate(
        InterSceneLoss(chunk_bytes=chunk_bytes, **settings),
        queries,
        ids,
        pixels,
        benchmark.dynamic_filter_retrieve if kind == "dynamic" else benchmark.dot_product_retrieve,
        bytes_per_pair=128 if kind == "dynamic" else 0,
    )


def evaluate(
    loss: InterSceneLoss, queries: Queries, ids: Tensor, pixels: Pixels, retrieve: Any, **options: Any
) -> InterLoss:
    """Normalised over `pixels`."""
    weights = loss.weigh_queries(*count_images(pixels.image_ids).foreign(ids))
    return loss(queries, ids, pixels, retrieve, query_weights=weights, **options)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("loss", INTER_LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_plain_autograd(benchmark: ModuleType, kind: str, loss: str, normalizer: str) -> None:
    queries, ids, memory = inputs(kind)
    expected = plain_loss(queries, ids, memory, kind, loss, normalizer)
    value = run(benchmark, kind, queries, ids, memory, loss=loss, normalizer=normalizer).value
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(3 * total, queries.embeddings)[0] for total in (expected, value)]
    assert (gradients[1] - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


@pytest.mark.parametrize("kind", KINDS)
def test_chunk_size_does_not_matter(benchmark: ModuleType, kind: str) -> None:
    queries, ids, memory = inputs(kind)
    results = [run(benchmark, kind, queries, ids, memory, chunk_bytes=size) for size in (1, SMALL_CHUNK, 2**30)]
    for result in results[1:]:
        torch.testing.assert_close(result.value, results[0].value, rtol=1e-5, atol=0)
        assert result[1:] == results[0][1:]


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(benchmark: ModuleType, kind: str) -> None:
    queries, ids, memory = inputs(kind, queries=2, pixels=20, dtype=torch.float64)

    def value(embeddings: Tensor) -> Tensor:
        return run(benchmark, kind, Queries(embeddings, ids, ids, queries.context), ids, memory, chunk_bytes=2000).value

    assert torch.autograd.gradcheck(value, (queries.embeddings,))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_but_for_the_embeddings(benchmark: ModuleType, kind: str) -> None:
    queries, ids, memory = inputs(kind)
    others = [memory.features, memory.locations, *queries.context.values()]
    for tensor in others:
        tensor.requires_grad_()
    run(benchmark, kind, queries, ids, memory).value.backward()
    assert queries.embeddings.grad is not None and queries.embeddings.grad.abs().sum() > 0
    assert all(tensor.grad is None for tensor in others)


def test_chunks_without_a_slope_need_no_backward_pass(benchmark: ModuleType) -> None:
    """Logits of -200 have a slope of exactly zero; the gradient is that of the other pixels."""
    queries, ids, memory = inputs("dot", pixels=200)
    memory.image_ids[:] = 9
    memory.features[100:] = 0.0
    passes = 0

    def retrieve(part: Queries, pixels: Pixels) -> Tensor:
        logits = literal_dot(part, pixels) - 200.0 * (pixels.features == 0).all(dim=1)
        if logits.requires_grad:
            logits.register_hook(count)
        return logits

    def count(_: Tensor) -> None:
        nonlocal passes
        passes += 1

    chunk = 50 * (7 * 4 * 8 + 8 * 16)  # bytes of 50 pixels: four chunks
    loss = InterSceneLoss(chunk_bytes=chunk)
    result = evaluate(loss, queries, ids, memory, retrieve)
    assert passes == 2
    (gradient,) = torch.autograd.grad(2 * result.value, queries.embeddings)
    first = evaluate(loss, queries, ids, memory.select(slice(0, 100)), retrieve)
    torch.testing.assert_close(gradient, torch.autograd.grad(first.value, queries.embeddings)[0])


def test_empty_slots_and_own_image_leave_the_loss_alone(benchmark: ModuleType) -> None:
    queries, ids, memory = inputs("dot")
    ids[:] = 2
    before = run(benchmark, "dot", queries, ids, memory)
    excluded = (memory.image_ids == -1) | (memory.image_ids == 2)
    memory.features[excluded] = 100.0
    after = run(benchmark, "dot", queries, ids, memory)
    assert after.value.item() == pytest.approx(before.value.item(), rel=1e-6)
    assert after.num_pairs == before.num_pairs == 7 * (~excluded).sum()
    kept = run(benchmark, "dot", queries, ids, memory.select(~excluded))
    assert kept.value.item() == pytest.approx(before.value.item(), rel=1e-6)
    memory.features[~excluded] *= 2
    assert run(benchmark, "dot", queries, ids, memory).value.item() != pytest.approx(before.value.item(), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_pixels_count_them_as_often(benchmark: ModuleType, kind: str) -> None:
    queries, ids, memory = inputs(kind)
    times = torch.randint(1, 4, (len(memory),), generator=torch.Generator().manual_seed(0))
    retrieve = benchmark.dynamic_filter_retrieve if kind == "dynamic" else benchmark.dot_product_retrieve
    loss, weights = InterSceneLoss(chunk_bytes=SMALL_CHUNK), torch.rand(len(ids))
    repeated = memory.select(torch.arange(len(memory)).repeat_interleave(times))
    expected = loss(queries, ids, repeated, retrieve, query_weights=weights).value
    value = loss(queries, ids, memory, retrieve, query_weights=weights, pixel_weights=times.float()).value
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(total, queries.embeddings)[0] for total in (expected, value)]
    assert (gradients[1] - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


def test_counts(benchmark: ModuleType) -> None:
    queries, ids, memory = inputs("dot")
    result = run(benchmark, "dot", queries, ids, memory)
    fired = literal_dot(queries, memory) > 0
    filled = (memory.image_ids >= 0)[None].expand_as(fired)
    own = ids[:, None] == memory.image_ids[None]
    expected = [filled & ~own, filled & ~own & fired, own, own & fired]
    assert [int(count) for count in result[1:]] == [int(pairs.sum()) for pairs in expected]


@pytest.mark.parametrize(("queries", "pixels"), [(0, 20), (3, 0), (0, 0)])
def test_nothing_to_compare_gives_a_connected_zero(benchmark: ModuleType, queries: int, pixels: int) -> None:
    some, ids, memory = inputs("dot", queries=queries, pixels=pixels)
    result = run(benchmark, "dot", some, ids, memory)
    assert result.value == 0 and result.num_pairs == 0
    result.value.backward()
    assert torch.equal(some.embeddings.grad, torch.zeros_like(some.embeddings))


@pytest.mark.parametrize("loss", INTER_LOSSES)
def test_without_grad_mode_the_value_is_the_same(benchmark: ModuleType, loss: str) -> None:
    queries, ids, memory = inputs("dot")
    with torch.no_grad():
        value = run(benchmark, "dot", queries, ids, memory, loss=loss).value
    assert not value.requires_grad
    assert value == run(benchmark, "dot", queries, ids, memory, loss=loss).value.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_is_a_float32_island_under_autocast(benchmark: ModuleType, kind: str) -> None:
    queries, ids, memory = inputs(kind)
    expected = run(benchmark, kind, queries, ids, memory).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = run(benchmark, kind, queries, ids, memory).value
    assert value.dtype == torch.float32 and value == expected


def test_half_precision_inputs_are_computed_in_float32(benchmark: ModuleType) -> None:
    queries, ids, memory = inputs("dot")
    half, leaf = memory.to(dtype=torch.bfloat16), queries.embeddings.detach().bfloat16().requires_grad_()
    low = Queries(leaf, ids, ids)
    exact = Queries(leaf.detach().float().requires_grad_(), ids, ids)
    value = run(benchmark, "dot", low, ids, half).value
    expected = run(benchmark, "dot", exact, ids, half.to(dtype=torch.float32)).value
    assert value.dtype == torch.float32 and value == expected.detach()
    value.backward()
    expected.backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.bfloat16
    assert exact.embeddings.grad is not None
    torch.testing.assert_close(leaf.grad, exact.embeddings.grad.bfloat16())


@pytest.mark.parametrize("with_other_term", [False, True])
def test_second_derivative_is_refused(benchmark: ModuleType, with_other_term: bool) -> None:
    queries, ids, memory = inputs("dot")
    value = run(benchmark, "dot", queries, ids, memory).value
    if with_other_term:
        value = value + queries.embeddings.square().sum()
    (gradient,) = torch.autograd.grad(value, queries.embeddings, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


def test_backward_twice_over_a_kept_graph(benchmark: ModuleType) -> None:
    queries, ids, memory = inputs("dot")
    value = run(benchmark, "dot", queries, ids, memory).value
    first, second = (torch.autograd.grad(value, queries.embeddings, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_memory_may_change_between_forward_and_backward(benchmark: ModuleType) -> None:
    queries, ids, memory = inputs("dot")
    (expected,) = torch.autograd.grad(run(benchmark, "dot", queries, ids, memory).value, queries.embeddings)
    value = run(benchmark, "dot", queries, ids, memory).value
    memory.features.zero_()
    memory.image_ids.fill_(-1)
    assert torch.equal(torch.autograd.grad(value, queries.embeddings)[0], expected)


def test_peak_memory_does_not_grow_with_the_capacity(benchmark: ModuleType) -> None:
    for case in benchmark.CASES:
        peaks = []
        for capacity in (20_000, 100_000):
            args = benchmark.random_inputs(case, 100, capacity)
            peaks.append(benchmark.peak_bytes(partial(benchmark.chunked_step, case, *args, chunk_bytes=8 * 2**20)))
        assert peaks[1] < 1.05 * peaks[0]
        assert peaks[1] < 10 * 2**20


def test_plain_autograd_would_need_more(benchmark: ModuleType) -> None:
    """The measurement sees what it should see."""
    case = benchmark.CASES[0]
    args = benchmark.random_inputs(case, 100, 10_000)
    assert benchmark.peak_bytes(lambda: benchmark.plain_step(case, *args)) > 100 * 2**20


RESIDENT = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import benchmark_inter_loss as module
case = module.CASES[0]
module.chunked_step(case, *module.random_inputs(case, 100, 100), chunk_bytes=16 * 2**20)
inputs = module.random_inputs(case, 100, 100_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
module.chunked_step(case, *inputs, chunk_bytes=16 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_resident_memory_at_100_queries_and_100k_pixels() -> None:
    """Under 200 MB beyond the inputs, as the operating system counts it."""
    command = [sys.executable, "-c", RESIDENT, str(ROOT / "tools")]
    grown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(grown) * 1024 < 200e6
