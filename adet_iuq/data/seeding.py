"""Random numbers that depend only on a seed, not on the process, the worker or what ran before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from some integers (of any sign). Different tuples give unrelated seeds."""
    words = np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, Python's, numpy's and torch's CPU generators start from `seed`; afterwards they continue as before.

    Global generators are seeded because detectron2's augmentations draw from numpy's global generator.
    """
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(np.random.SeedSequence(seed).generate_state(4))
    # torch.manual_seed would also reset the CUDA generators of a training process that loads without workers.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
