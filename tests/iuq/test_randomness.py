"""Keyed randomness."""

import torch

from adet_iuq.iuq import image_generator, keyed_generator, tagged_seed


def test_same_key_same_draw() -> None:
    draws = [torch.rand(4, generator=keyed_generator(5, "crop")) for _ in range(2)]
    assert torch.equal(*draws)


def test_tags_and_seeds_are_independent() -> None:
    seeds = {tagged_seed(seed, tag) for seed in range(100) for tag in ("a", "b")}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_known_value() -> None:
    """A checkpoint resumed on another machine or version must draw the same: the derivation is part of the format."""
    assert tagged_seed(1, "crop_flip") == 3675026466613897946


def test_batch_without_seeds_uses_the_global_generator() -> None:
    assert image_generator(None, 0, "a") is None
    assert image_generator([3, 4], 1, "a") is not None
