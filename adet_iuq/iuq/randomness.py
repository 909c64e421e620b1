"""Random draws that depend on a key, and never on the process, the worker or the order of calls."""

from __future__ import annotations

import hashlib

import torch


def tagged_seed(seed: int, tag: str) -> int:
    """A 63-bit seed for the purpose `tag`, independent of those for all other tags."""
    digest = hashlib.blake2b(f"{seed}/{tag}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_generator(seed: int, tag: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device` for one purpose. Draws with the same seed and different tags are independent."""
    return torch.Generator(device=device).manual_seed(tagged_seed(seed, tag))


def image_generator(
    seeds: list[int] | None, image: int, tag: str, device: torch.device | str = "cpu"
) -> torch.Generator | None:
    """The generator of one image of a batch; None, which means torch's global one, for a batch without seeds."""
    return None if seeds is None else keyed_generator(seeds[image], tag, device)
