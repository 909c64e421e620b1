"""Eq. 5 of all queries and pixels: the sum in chunks, its counts and its gradient, against plain autograd of all pairs."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import INTER_LOSSES, NORMALIZERS, InterLoss, InterSceneLoss, Pixels, Queries
from adet_iuq.iuq.image_counts import count_images
from helpers.inter_twins import slow_inter_loss

KINDS = ["dynamic", "dot"]
SMALL_CHUNK = 30_000  # bytes: several chunks at the sizes used here


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
