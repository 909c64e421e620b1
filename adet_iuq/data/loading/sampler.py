"""Which images make up which batch: one stream for all ranks, the same for any number of ranks and workers.

Every rank walks the same stream of image numbers, forms the same global batches and takes its own slice. A resumed run
walks the stream from the start without loading anything, which costs well under a microsecond an index.
"""

from collections.abc import Iterator, Sequence

import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler

from adet_iuq.errors import UserError

# Position in the data set, and position in the infinite sequence of samples.
IndexPair = tuple[int, int]


def shuffled_stream(size: int, seed: int) -> Iterator[int]:
    """An endless row of random permutations of 0..size-1: what detectron2's TrainingSampler yields to a single process."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def repeated_stream(repeat_factors: torch.Tensor, seed: int) -> Iterator[int]:
    """As `shuffled_stream`, image i as often as its factor says on average: detectron2's RepeatFactorTrainingSampler."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.trunc(repeat_factors)
    while True:
        draws = torch.rand(len(whole), generator=generator)
        repeats = (whole + (draws < repeat_factors - whole).float()).long()
        indices = torch.arange(len(whole)).repeat_interleave(repeats)
        yield from indices[torch.randperm(len(indices), generator=generator)].tolist()


def repeat_factors(sampler: str, records: Sequence[dict], threshold: float) -> torch.Tensor | None:
    """How often each image comes in a pass, (N,) float; None: once.

    Args:
        sampler: DATALOADER.SAMPLER_TRAIN.
        records: the data set.
        threshold: DATALOADER.REPEAT_THRESHOLD.

    Raises:
        UserError: there is no such sampler.
    """
    if sampler == "TrainingSampler":
        return None
    if sampler == "RepeatFactorTrainingSampler":
        return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    raise UserError(f"DATALOADER.SAMPLER_TRAIN '{sampler}': choose TrainingSampler or RepeatFactorTrainingSampler.")


def grouped_batches(stream: Iterator[int], batch_size: int, wide: Sequence[bool] | None) -> Iterator[list[int]]:
    """Global batches in the order in which they fill; with `wide`, wide images and others never share a batch.

    Args:
        stream: image numbers.
        batch_size: images of all ranks together.
        wide: for each image whether it is wider than high; None: no grouping.
    """
    buckets: tuple[list[int], list[int]] = ([], [])
    for index in stream:
        bucket = buckets[wide[index] if wide is not None else 0]
        bucket.append(index)
        if len(bucket) == batch_size:
            yield bucket[:]
            bucket.clear()


def rank_batches(
    batches: Iterator[list[int]], start: int, rank: int, world_size: int, micro_batches: int = 1
) -> Iterator[list[IndexPair]]:
    """This rank's part of each global batch from number `start` on, each image with its global sample number.

    A part is the concatenation of `micro_batches` equal slices. The first slices of all ranks, joined, are the beginning of
    the global batch, the second ones go on from there: what `world_size * micro_batches` processes would take in one
    slice each, and in an order in which samples reach the memory as they do with those.
    """
    for step, batch in enumerate(batches):
        if step < start:
            continue
        share = len(batch) // (world_size * micro_batches)
        firsts = [(micro * world_size + rank) * share for micro in range(micro_batches)]
        yield [(batch[i], step * len(batch) + i) for first in firsts for i in range(first, first + share)]
