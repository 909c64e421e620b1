"""The cap on the queries of the inter-scene term."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from adet_iuq.iuq import Queries, Scene, cap_queries

MakeScene = Callable[..., Scene]


def _with_queries(make_scene: MakeScene, counts: list[list[int]]) -> Scene:
    """counts[b][k]: number of queries of instance k of image b; embedding n is n."""
    scene = make_scene([len(image) for image in counts], queries_each=0)
    rows = [(b, k) for b, image in enumerate(counts) for k, count in enumerate(image) for _ in range(count)]
    index = torch.tensor(rows)
    return replace(scene, queries=Queries(torch.arange(len(rows))[:, None].float(), index[:, 0], index[:, 1]))


@pytest.mark.parametrize(
    ("cap", "expected"), [(-1, [9, 1, 4, 2, 7]), (23, [9, 1, 4, 2, 7]), (14, [4, 1, 4, 2, 3]), (11, [3, 1, 3, 2, 2])]
)
def test_cap_spreads_queries_over_instances(make_scene: MakeScene, cap: int, expected: list[int]) -> None:
    scene = _with_queries(make_scene, [[9, 1], [], [4, 2, 7]])
    kept = cap_queries(scene, cap, 3)
    counts = [
        int(((kept.image_index == b) & (kept.target_index == k)).sum())
        for b, k in ((0, 0), (0, 1), (2, 0), (2, 1), (2, 2))
    ]
    # In the last round instances are chosen at random: compare what is certain.
    assert sum(counts) == sum(expected)
    assert sorted(counts) == sorted(expected)
    assert kept.embeddings.flatten().tolist() == sorted(set(kept.embeddings.flatten().tolist()))


def test_cap_below_the_number_of_instances(make_scene: MakeScene) -> None:
    scene = _with_queries(make_scene, [[9, 1], [4, 2, 7]])
    hits = torch.zeros(5)
    for seed in range(1500):
        scene.sample_seeds = [seed, seed + 10_000]
        kept = cap_queries(scene, 2, 2)
        instance = kept.image_index * 2 + kept.target_index
        assert len(set(instance.tolist())) == 2
        hits[instance] += 1
    # Each instance alike, however many queries it has.
    assert (hits / 1500 - 0.4).abs().max() < 5 * (0.4 * 0.6 / 1500) ** 0.5
    assert cap_queries(scene, 0, 2).embeddings.shape == (0, 1)


def test_cap_draws_each_query_of_an_instance_alike(make_scene: MakeScene) -> None:
    scene = _with_queries(make_scene, [[5], [1]])
    hits = torch.zeros(6)
    for seed in range(1500):
        scene.sample_seeds = [seed, seed]
        hits[cap_queries(scene, 3, 2).embeddings.flatten().long()] += 1
    assert hits[5] == 1500
    assert (hits[:5] / 1500 - 0.4).abs().max() < 5 * (0.4 * 0.6 / 1500) ** 0.5
