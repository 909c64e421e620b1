"""Three gloo processes that see different things never wait for each other in vain, and notice when they drift apart.

Also the processes' script.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import (
    CropFlip,
    EquivarianceLoss,
    InstanceSampler,
    InterSceneLoss,
    IUQCriterion,
    PixelMemory,
    Pixels,
    Queries,
    Scene,
    sum_over_ranks,
)
from helpers.gloo import main, run_ranks

RANKS, STEPS = 3, 5
SETTINGS = list(itertools.product((False, True), (False, True), ("query", "feature")))  # shard, reduce, target


class Segmenter:
    """Dot-product retrieval; its mask loss is a collective call, as with MODEL.REDUCE_NORMALIZER."""

    bytes_per_pair = 0

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits."""
        return queries.embeddings @ pixels.features.t()

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits."""
        return torch.einsum("qd,qdhw->qhw", queries.embeddings, maps[queries.image_index])

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """Any loss by the number of queries of all ranks."""
        return logits.sigmoid().sum() / sum_over_ranks(torch.tensor(len(logits))).clamp(min=1)


def scene_of(step: int, rank: int) -> Scene:
    """One image and its view.

    Rank 0 never has an instance. Rank 1 has none that is left in the view, and from step 3 on nothing finite. Rank 2 is
    as it should be, and has no query in step 2.
    """
    generator = torch.Generator().manual_seed(10 * step + rank)
    instances = 0 if rank == 0 else 3
    queries = torch.arange(2).repeat_interleave(instances)
    if rank == 1:
        queries = queries[queries == 0]
    if rank == 2 and step == 2:
        queries = queries[:0]
    features = torch.randn(2, 4, 8, 8, generator=generator)
    embeddings = torch.randn(len(queries), 4, generator=generator)
    if rank == 1 and step >= 3:
        features[:, :, 0], embeddings[:] = float("inf"), float("nan")
    return Scene(
        queries=Queries(embeddings.requires_grad_(), queries, torch.zeros_like(queries)),
        features=features.requires_grad_(),
        stride=4,
        offset=2,
        masks=[torch.rand(instances, 32, 32, generator=generator) > 0.5] * 2,
        image_ids=torch.tensor([10 * step + rank] * 2),
        image_sizes=[(32, 32)] * 2,
        sample_seeds=[10 * step + rank] * 2,
        sample_indices=[10 * step + rank] * 2,
    )


def train(rank: int, shard: bool, reduce: bool, target: str) -> list[dict[str, Tensor]]:
    """Losses of every step: the first is before START_ITER, and the memory wraps around."""
    criterion = IUQCriterion(
        memory=PixelMemory(4, capacity=40, shard=shard, check_period=2),
        sampler=InstanceSampler(5),
        inter=InterSceneLoss(start_iter=1, ramp_iters=2, sample=20, max_queries=4),
        equi=EquivarianceLoss(target=target),
        reduce_normalizer=reduce,
    )
    found = []
    for step in range(STEPS):
        scene = scene_of(step, rank)
        transforms = [CropFlip(4, 0, 20, 24, flip=step % 2 == 0)]
        losses, stats = criterion(Segmenter(), scene, transforms, num_originals=1, iteration=step)
        torch.stack(list(losses.values())).sum().backward()
        assert scene.features.grad is not None and scene.queries.embeddings.grad is not None
        found.append({name: value.detach() for name, value in (losses | stats).items()})
    return found


def rows(count: int) -> Pixels:
    return Pixels(torch.ones(count, 4), torch.zeros(count, 2), torch.arange(count))


def drift(rank: int, ranks: int) -> dict[str, str]:
    """What the check says when something happens to one rank's memory."""
    said = {}

    def attempt(name: str, memory: PixelMemory, times: int) -> None:
        said[name] = ""
        for _ in range(times):
            try:
                memory.enqueue(rows(rank))
            except RuntimeError as error:
                said[name] += str(error)

    memory = PixelMemory(4, capacity=50, check_period=3)
    attempt("sound", memory, 4)
    state = memory.state()
    if rank == 1:
        memory.features.view(torch.int32)[5, 2] ^= 1
    attempt("not due", memory, 2)
    attempt("one bit", memory, 1)
    if rank == 2:
        state["image_ids"][3] = 7
    memory = PixelMemory(4, capacity=50, check_period=1000)
    memory.load_state(state)
    attempt("resumed", memory, 1)
    memory = PixelMemory(4, capacity=50, shard=True, check_period=1)
    attempt("shards differ", memory, 3)
    memory.cursor[0] += rank == 0
    attempt("pointer", memory, 1)
    off = PixelMemory(4, capacity=50)
    off.cursor[2] += rank
    attempt("off", off, 3)
    return said


def worker(rank: int, ranks: int, folder: Path) -> dict[str, Any]:
    """One of the processes."""
    return {"steps": [train(rank, *settings) for settings in SETTINGS], "drift": drift(rank, ranks)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each process found; run_ranks fails on a hang."""
    return run_ranks(__file__, RANKS, tmp_path_factory.mktemp("uneven"))


def test_ranks_that_see_different_things_all_finish(results: list[Any]) -> None:
    for result in results:
        assert [len(steps) for steps in result["steps"]] == [STEPS] * len(SETTINGS)
    for index, (shard, _, _) in enumerate(SETTINGS):
        steps = [result["steps"][index] for result in results]
        assert all(step["loss_inter"] == 0 for step in (steps[0][-1], steps[2][0], steps[2][2]))
        assert steps[2][1]["loss_inter"] > 0 and steps[2][4]["memory_fill"] == 1, shard


def test_what_is_not_finite_on_one_rank_stays_there(results: list[Any]) -> None:
    """Also where the queries are sent around, and in the memory. The trainer then stops all ranks by the losses."""
    for index in range(len(SETTINGS)):
        for rank in (0, 2):
            assert all(value.isfinite() for step in results[rank]["steps"][index] for value in step.values())
        assert results[1]["steps"][index][4]["loss_inter"].isnan()


def test_every_rank_says_which_one_differs(results: list[Any]) -> None:
    for result in results:
        said = result["drift"]
        assert said["sound"] == said["not due"] == said["shards differ"] == said["off"] == ""
        assert "pixel memory should be the same on all 3 processes" in said["one bit"]
        assert "others: 'features' on rank 1." in said["one bit"]
        assert "others: 'image_ids' on rank 2." in said["resumed"]
        assert "others: 'cursor' on rank 0." in said["pointer"]


if __name__ == "__main__":
    main(worker)
