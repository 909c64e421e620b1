"""A memory split over two or three gloo processes gives what a whole one gives. Also the processes' script."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import (
    InstanceSampler,
    InterSceneLoss,
    IUQCriterion,
    PixelMemory,
    Pixels,
    Queries,
    Scene,
    distributed,
    sharded_inter_loss,
)
from helpers.gloo import main, run_ranks

DIM = 6
# Instances of each rank's two images; every instance has two queries and gives up to five pixels.
STEPS = [
    [(1, 2), (0, 0), (3, 1)],
    [(0, 0), (2, 1), (0, 1)],
    [(0, 0), (0, 0), (0, 0)],
    [(2, 2), (3, 3), (0, 1)],
    [(0, 1), (4, 4), (0, 0)],
    [(6, 6), (6, 6), (6, 6)],
]
CAPACITY = 47  # neither 2 nor 3 divide it; partly filled after the first step, wrapped around and overrun at the end
CASES: list[dict[str, Any]] = [
    {"normalizer": "pixel", "dtype": torch.float32, "capacity": CAPACITY, "reduce": False},
    {"normalizer": "image", "dtype": torch.float32, "capacity": CAPACITY, "reduce": True},
    {"normalizer": "pixel", "dtype": torch.float16, "capacity": CAPACITY, "reduce": True},
    # Queries as under autocast.
    {"normalizer": "image", "dtype": torch.bfloat16, "capacity": CAPACITY, "reduce": False, "queries": torch.bfloat16},
    {"normalizer": "pixel", "dtype": torch.float32, "capacity": 0, "reduce": False},
]
DRAWS = 100


class Segmenter:
    """<q, i> is a dot product and a term of both sides' context; no equivariance here."""

    bytes_per_pair = 0

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits."""
        shift = queries.context["shift"][:, None] * pixels.context["scale"][None]
        return queries.embeddings @ pixels.features.t() + shift - 0.01 * pixels.locations[:, 0]


def scene_of(step: int, rank: int, dtype: torch.dtype = torch.float32) -> Scene:
    """What one rank sees in one step; `dtype` is that of the queries."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    counts = torch.tensor(STEPS[step][rank])
    image_index = torch.arange(2).repeat_interleave(2 * counts)
    queries = Queries(
        torch.randn(len(image_index), DIM, generator=generator).to(dtype).requires_grad_(),
        image_index,
        torch.zeros_like(image_index),
        {"shift": torch.randn(len(image_index), generator=generator)},
    )
    return Scene(
        queries=queries,
        features=torch.randn(2, DIM, 8, 8, generator=generator),
        stride=4,
        offset=2,
        masks=[torch.rand(int(count), 32, 32, generator=generator) > 0.5 for count in counts],
        image_ids=torch.tensor([2 * rank, 2 * rank + 1]) + 4 * step,  # those of later steps repeat some
        image_sizes=[(32, 32)] * 2,
        sample_seeds=[100 * step + 2 * rank, 100 * step + 2 * rank + 1],
        sample_indices=[100 * step + 2 * rank, 100 * step + 2 * rank + 1],
        instance_context={"scale": [torch.rand(int(count), generator=generator) for count in counts]},
    )


def criterion_of(case: dict[str, Any], shard: bool) -> IUQCriterion:
    memory = PixelMemory(DIM, capacity=case["capacity"], dtype=case["dtype"], context={"scale": ()}, shard=shard)
    # Chunks of a few pixels.
    inter = InterSceneLoss(normalizer=case["normalizer"], chunk_bytes=3000)
    return IUQCriterion(memory=memory, sampler=InstanceSampler(5), inter=inter, reduce_normalizer=case["reduce"])


def step_of(criterion: IUQCriterion, step: int, rank: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Loss, gradient and statistics of one step."""
    scene = scene_of(step, rank, dtype)
    losses, stats = criterion(Segmenter(), scene, None, num_originals=2, iteration=step)
    (gradient,) = torch.autograd.grad(losses["loss_inter"], scene.queries.embeddings)
    return {"loss": losses["loss_inter"].detach(), "gradient": gradient, **stats}


def memory_of(criterion: IUQCriterion) -> PixelMemory:
    assert criterion.memory is not None
    return criterion.memory


def compare(case: dict[str, Any], rank: int) -> dict[str, Any]:
    """Every step with both memories, and the states at the end."""
    whole, sharded = criterion_of(case, shard=False), criterion_of(case, shard=True)
    dtype = case.get("queries", torch.float32)
    steps = [(step_of(whole, step, rank, dtype), step_of(sharded, step, rank, dtype)) for step in range(len(STEPS))]
    states = memory_of(whole).state(), memory_of(sharded).state()
    resumed = criterion_of(case, shard=True)
    memory_of(resumed).load_state(states[0])
    rows = {name: buffer.clone() for name, buffer in memory_of(sharded).named_buffers()}
    loaded = {name: buffer.clone() for name, buffer in memory_of(resumed).named_buffers()}
    continued = step_of(sharded, 3, rank), step_of(resumed, 3, rank)
    smaller = [criterion_of({**case, "capacity": 20}, shard) for shard in (False, True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for criterion in smaller:
            memory_of(criterion).load_state(states[0])
    shrunk = [memory_of(criterion).state() for criterion in smaller]
    return {"shrunk": shrunk, "steps": steps, "states": states, "rows": (rows, loaded), "continued": continued}


def draw(rank: int, count: int, times: int) -> dict[str, Tensor]:
    """The full loss and gradient of a rank's queries on a wrapped memory, and many from samples of `count` pixels."""
    case = CASES[0]
    whole = criterion_of(case, shard=False)
    for step in (0, 1, 3):
        step_of(whole, step, rank)
    memory = memory_of(criterion_of(case, shard=True))
    memory.load_state(memory_of(whole).state())
    scene = scene_of(5, rank)
    ids = scene.image_ids[scene.queries.image_index]
    loss = InterSceneLoss()
    weights = loss.weigh_queries(*memory.image_counts().foreign(ids))

    def match(sample: int) -> tuple[Tensor, Tensor, Tensor]:
        pixels, shares = memory.sample(sample)
        result = sharded_inter_loss(
            loss, scene.queries, ids, pixels, Segmenter().retrieve, query_weights=weights, pixel_weights=shares
        )
        (gradient,) = torch.autograd.grad(result.value, scene.queries.embeddings)
        return result.value.detach(), gradient, result.num_pairs + result.num_own_pairs

    value, gradient, pairs = match(-1)
    draws = []
    for _ in range(times):
        memory.cursor[2] += 1  # the number of writes keys the draw
        draws.append(match(count))
    _, shares = memory.sample(count)
    assert shares is not None
    values, gradients, drawn = (torch.stack(part) for part in zip(*draws, strict=True))
    return {
        "value": value, "gradient": gradient, "pairs": pairs / len(ids),
        "values": values, "gradients": gradients, "drawn": drawn / len(ids),
        "stands_for": torch.tensor([shares.sum(), len(memory.pixels())]),
    }  # fmt: skip


def worker(rank: int, ranks: int, folder: Path) -> dict[str, Any]:
    """One of the processes."""
    distributed._PIECE_BYTES = 1000  # so that states travel in several pieces
    return {"cases": [compare(case, rank) for case in CASES], "draws": [draw(rank, 1, 2), draw(rank, 13, DRAWS)]}


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each process found."""
    return run_ranks(__file__, request.param, tmp_path_factory.mktemp("sharding"))


def each_case(results: list[Any]) -> Iterator[tuple[dict[str, Any], int, dict[str, Any]]]:
    for rank, result in enumerate(results):
        for case, found in zip(CASES, result["cases"], strict=True):
            yield case, rank, found


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_steps_are_as_uneven_as_they_should_be(results: list[Any]) -> None:
    """No query, no pixel, partly filled, wrapped around: else the comparisons would show less than they say."""
    fills = [float(whole["memory_fill"]) for whole, _ in results[0]["cases"][0]["steps"]]
    assert 0 < fills[0] < 1 and fills[-1] == 1
    for rank in range(2):
        sizes = [len(whole["gradient"]) for whole, _ in results[rank]["cases"][0]["steps"]]
        assert 0 in sizes and max(sizes) > 20
    assert results[0]["cases"][0]["states"][0]["cursor"].tolist()[2] == len(STEPS)


def test_losses_and_gradients_are_those_of_the_whole_memory(results: list[Any]) -> None:
    for case, _, found in each_case(results):
        for step, (whole, sharded) in enumerate(found["steps"]):
            close(sharded["loss"], whole["loss"])
            # Relative to the largest component: single ones may cancel.
            scale = whole["gradient"].abs().max() if len(whole["gradient"]) else torch.tensor(1.0)
            assert sharded["gradient"].shape == whole["gradient"].shape
            # A bfloat16 has 8 bits: both may be rounded to neighbours.
            tolerance = 1e-5 if whole["gradient"].dtype == torch.float32 else 2**-7
            assert sharded["gradient"].dtype == whole["gradient"].dtype == case.get("queries", torch.float32)
            assert ((sharded["gradient"] - whole["gradient"]).abs() <= tolerance * scale).all(), (case, step)
    assert any(whole["loss"] > 0 for whole, _ in results[0]["cases"][0]["steps"])


def test_all_statistics_are_those_of_the_whole_memory(results: list[Any]) -> None:
    for _, _, found in each_case(results):
        for whole, sharded in found["steps"]:
            for name in ("memory_fill", "num_valid_pairs", "fire_rate", "own_fire_rate"):
                assert torch.equal(sharded[name], whole[name]), name
    seen = [whole["own_fire_rate"] for whole, _ in results[0]["cases"][0]["steps"]]
    assert max(seen) > 0


def test_every_rank_holds_its_share(results: list[Any]) -> None:
    for case, rank, found in each_case(results):
        whole = found["states"][0]
        for name, rows in found["rows"][0].items():
            expected = whole[name] if name == "cursor" else whole[name][rank :: len(results)]
            assert torch.equal(rows, expected) and rows.dtype == expected.dtype, (case, name)


def test_the_saved_state_is_whole_and_on_rank_0(results: list[Any]) -> None:
    for _, rank, found in each_case(results):
        whole, gathered = found["states"]
        assert gathered.keys() == (whole.keys() if rank == 0 else set())
        assert all(torch.equal(gathered[name], whole[name]) for name in gathered)
        assert all(gathered[name].dtype == whole[name].dtype for name in gathered)


def test_a_loaded_memory_goes_on_as_the_saved_one(results: list[Any]) -> None:
    """Also what another number of ranks, or a whole memory, has saved: the states are the same."""
    for case, _, found in each_case(results):
        if case["capacity"]:  # that of capacity 0 is replaced in each step
            assert all(torch.equal(found["rows"][0][name], found["rows"][1][name]) for name in found["rows"][0])
        before, after = found["continued"]
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_capacity_keeps_the_newest_pixels_sharded_or_not(results: list[Any]) -> None:
    for case, found in zip(CASES, results[0]["cases"], strict=True):
        whole, sharded = found["shrunk"]
        assert case["capacity"] == 0 or whole["cursor"][1] == 20
        assert all(torch.equal(sharded[name], whole[name]) for name in whole)


def test_a_whole_memory_takes_over_what_shards_saved(results: list[Any]) -> None:
    for case, found in zip(CASES, results[0]["cases"], strict=True):
        if case["capacity"]:
            memory = memory_of(criterion_of(case, shard=False))
            memory.load_state(found["states"][1])
            assert all(torch.equal(memory.state()[name], value) for name, value in found["states"][0].items())


def test_sampled_shards_average_to_the_full_loss_and_gradient(results: list[Any]) -> None:
    """Five standard errors, as measured over the draws, for each of about a hundred means."""
    for result in results:
        found = result["draws"][1]
        for name in ("value", "gradient"):
            draws = found[name + "s"].double()
            error = draws.std(dim=0) / DRAWS**0.5
            assert (error > 0).all()
            assert ((draws.mean(dim=0) - found[name]).abs() < 5 * error + 1e-7).all(), name


def test_the_sample_has_the_size_that_was_asked_for(results: list[Any]) -> None:
    few, more = results[0]["draws"]
    assert few["pairs"] == CAPACITY
    for result in results:
        for found in result["draws"]:
            # Each rank's sample stands for its own slots: shares and slots differ from rank to rank.
            assert found["stands_for"][0].item() == pytest.approx(found["stands_for"][1].item())
    assert (few["drawn"] == len(results)).all()  # every rank draws at least one
    assert (more["drawn"] == 13).all()


if __name__ == "__main__":
    main(worker)
