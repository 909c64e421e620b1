"""INTER.SAMPLE: which pixels are drawn, and that they estimate the full loss without bias. Sharded: tests/distributed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from adet_iuq.iuq import (
    NORMALIZERS,
    InstanceSampler,
    InterSceneLoss,
    IUQCriterion,
    PixelMemory,
    Pixels,
    Queries,
    Retriever,
    Scene,
)
from helpers.inter_twins import slow_inter_loss, slow_loss

FILLED, DRAWS = 30, 2000


def filled_memory(dtype: torch.dtype = torch.float32, seed: int = 0) -> PixelMemory:
    """A partly filled memory of images 0 to 4; two slots count as empty, for their pixels were not finite."""
    memory = PixelMemory(4, capacity=50, dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(FILLED, 4, generator=generator)
    features[[3, 17]] = float("nan")
    memory.enqueue(Pixels(features, torch.zeros(FILLED, 2), torch.arange(FILLED) % 5))
    memory.locations[:, 0] = torch.arange(50)  # a slot says its number
    return memory


def drawn(memory: PixelMemory, count: int) -> list[int]:
    return memory.sample(count)[0].locations[:, 0].int().tolist()


def next_step(memory: PixelMemory) -> None:
    memory.enqueue(Pixels(torch.zeros(0, 4), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)))


def test_every_filled_slot_is_as_likely_as_any_other() -> None:
    memory, hits = filled_memory(), torch.zeros(50)
    pairs = torch.zeros(50, 50)
    for _ in range(DRAWS):
        slots = drawn(memory, 7)
        assert len(set(slots)) == 7
        hits[slots] += 1
        pairs[slots[0], slots[1]] += 1
        next_step(memory)
    assert (hits[FILLED:] == 0).all()
    # Six standard deviations of each binomial.
    share = 7 / FILLED
    assert (hits[:FILLED] / DRAWS - share).abs().max() < 6 * (share * (1 - share) / DRAWS) ** 0.5
    assert (pairs > 0).sum() > 50


def test_the_draw_depends_on_seed_and_number_of_writes_only() -> None:
    memory, other = filled_memory(), filled_memory()
    torch.manual_seed(1)
    first = drawn(memory, 7)
    torch.manual_seed(2)
    assert first == drawn(memory, 7) == drawn(other, 7)
    assert first != drawn(filled_memory(seed=1), 7)
    next_step(memory)
    assert first != drawn(memory, 7)
    resumed = PixelMemory(4, capacity=50)
    resumed.load_state(memory.state())
    assert drawn(resumed, 7) == drawn(memory, 7)


@pytest.mark.parametrize("count", [-1, 0, FILLED, 1000])
def test_all_pixels_in_order(count: int) -> None:
    pixels, weights = filled_memory().sample(count)
    assert weights is None and torch.equal(pixels.image_ids, filled_memory().pixels().image_ids)


def test_an_empty_memory_gives_an_empty_sample() -> None:
    pixels, weights = PixelMemory(4, capacity=50).sample(5)
    assert len(pixels) == 0 and weights is None


def test_capacity_zero_is_sampled_as_well() -> None:
    memory = PixelMemory(4, capacity=0)
    memory.enqueue(Pixels(torch.randn(9, 4), torch.zeros(9, 2), torch.arange(9)))
    pixels, weights = memory.sample(6)
    assert len(pixels) == 6 and weights is not None and weights.tolist() == [1.5] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_sampled_losses_and_gradients_average_to_the_full_ones(
    segmenter: Retriever, normalizer: str, dtype: torch.dtype
) -> None:
    """Five standard errors, as measured over the draws, for each of 21 means."""
    memory = filled_memory(dtype)
    ids = torch.tensor([0, 1, 1, 4, 9])  # the last one owns nothing in the memory
    embeddings = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    queries = Queries(embeddings, ids, ids)
    loss = InterSceneLoss(normalizer=normalizer)
    weights = loss.weigh_queries(*memory.image_counts().foreign(ids))

    def evaluate(pixels: Pixels, pixel_weights: torch.Tensor | None) -> torch.Tensor:
        """The value and its 20 derivatives."""
        value = loss(queries, ids, pixels, segmenter.retrieve, query_weights=weights, pixel_weights=pixel_weights).value
        return torch.cat([value.detach()[None], torch.autograd.grad(value, embeddings)[0].flatten()])

    logits = segmenter.retrieve(queries, memory.pixels().to(dtype=torch.float32))
    full = slow_inter_loss(logits, ids, memory.pixels().image_ids, normalizer=normalizer)
    torch.testing.assert_close(evaluate(memory.pixels(), None)[0], full.detach())
    estimates = []
    for _ in range(300):
        estimates.append(evaluate(*memory.sample(7)))
        next_step(memory)
    draws = torch.stack(estimates).double()
    error = draws.std(dim=0) / len(draws) ** 0.5
    assert (error > 0).all()
    assert ((draws.mean(dim=0) - evaluate(memory.pixels(), None)).abs() < 5 * error).all()


def test_the_criterion_samples_and_normalises_by_the_whole_memory(
    make_scene: Callable[..., Scene], segmenter: Retriever
) -> None:
    """Word for word: filled / n times the sum over the sample, by the number of all valid pairs."""
    criterion = IUQCriterion(
        memory=PixelMemory(4, capacity=100), sampler=InstanceSampler(9), inter=InterSceneLoss(sample=11)
    )
    assert criterion.memory is not None
    for step in range(3):
        scene = make_scene([2, 1, 3], seed=step)
        scene = replace(scene, image_ids=scene.image_ids + step)  # some ids come again
        losses, stats = criterion(segmenter, scene, None, num_originals=3, iteration=step)
    everything = criterion.memory.pixels()
    pixels, _ = criterion.memory.sample(11)
    pairs, drawn_pairs, total = 0, 0, 0.0
    for n in range(len(scene.queries)):
        own = int(scene.image_ids[scene.queries.image_index[n]])
        pairs += sum(image != own for image in everything.image_ids.tolist())
        for feature, image in zip(pixels.features, pixels.image_ids.tolist(), strict=True):
            if image != own:
                total += float(slow_loss("focal", scene.queries.embeddings[n].detach() @ feature))
                drawn_pairs += 1
    assert len(pixels) == 11 < len(everything)
    assert losses["loss_inter"].item() == pytest.approx(len(everything) / 11 * total / pairs, rel=1e-5)
    assert stats["num_valid_pairs"] == drawn_pairs
