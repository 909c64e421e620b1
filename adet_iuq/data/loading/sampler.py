"""Decides which images make up which batch, by one stream that is the same for any number of ranks and workers.

Every rank follows the same stream of image numbers, forms the same global batches, and takes its own slice. A resumed
run follows the stream from the start without loading anything, which costs well under a microsecond per index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler

from adet_iuq.data.loading.registries import SAMPLER_REGISTRY, Stream
from adet_iuq.data.seeding import derive_seed
from adet_iuq.errors import UserError

_STREAM = 0  # the purpose of a derived seed

# Position in the data set, and position in the infinite sequence of samples.
IndexPair = tuple[int, int]


def shuffled_stream(size: int, seed: int) -> Iterator[int]:
    """An endless sequence of random permutations of 0..size-1, like that of detectron2's TrainingSampler on one process."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def repeated_stream(repeat_factors: torch.Tensor, seed: int) -> Iterator[int]:
    """A shuffled stream with each image as often as its factor says on average: detectron2's RepeatFactorTrainingSampler."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.trunc(repeat_factors)
    while True:
        draws = torch.rand(len(whole), generator=generator)
        repeats = (whole + (draws < repeat_factors - whole).float()).long()
        indices = torch.arange(len(whole)).repeat_interleave(repeats)
        yield from indices[torch.randperm(len(indices), generator=generator)].tolist()


@SAMPLER_REGISTRY.register("TrainingSampler")
def build_shuffled_stream(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> Stream:
    """A stream with every image once per pass."""
    return partial(shuffled_stream, len(records))


@SAMPLER_REGISTRY.register("RepeatFactorTrainingSampler")
def build_repeated_stream(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> Stream:
    """A stream with images of rare classes more often, by DATALOADER.REPEAT_THRESHOLD."""
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    return partial(
        repeated_stream, RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    )


def grouped_batches(stream: Iterator[int], batch_size: int, wide: Sequence[bool] | None) -> Iterator[list[int]]:
    """Global batches in the order in which they become full. With `wide`, wide images and others never share a batch.

    Args:
        stream: the numbers of the images.
        batch_size: the number of images of all ranks together.
        wide: whether each image is wider than high; None: no grouping.
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
    """This rank's part of each global batch from number `start` on, with the global sample number of each image.

    A part is the concatenation of `micro_batches` equal slices. The first slices of all ranks form the beginning of the
    global batch, the second slices continue it, and so on. So the slices are those that `world_size * micro_batches`
    processes would take, and samples reach the memory in the same order as with that many processes.
    """
    for step, batch in enumerate(batches):
        if step < start:
            continue
        share = len(batch) // (world_size * micro_batches)
        firsts = [(micro * world_size + rank) * share for micro in range(micro_batches)]
        yield [(batch[i], step * len(batch) + i) for first in firsts for i in range(first, first + share)]


@dataclass(frozen=True)
class BatchPlan:
    """Decides which samples make up the batches of one process.

    Attributes:
        seed: the seed of the run, any integer, the same in all processes.
        start_iter: the number of batches left out at the start; their images are not read.
        images_per_batch: the number of images of all processes together in one step.
        micro_batches: the number of equal parts in which a process takes its batch; see `rank_batches`.
        rank: the number of the process.
        world_size: the number of processes.

    Raises:
        UserError: `images_per_batch` is not divisible by the number of processes and micro-batches.
    """

    seed: int
    start_iter: int
    images_per_batch: int
    micro_batches: int
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if self.images_per_batch < 1 or self.images_per_batch % self.world_size:
            raise UserError(
                f"A step loads {self.images_per_batch} images (SOLVER.IMS_PER_BATCH), which {self.world_size} processes "
                f"cannot share evenly. Choose a multiple of {self.world_size}."
            )
        if self.images_per_batch % (self.world_size * self.micro_batches):
            raise UserError(
                f"A step loads {self.images_per_batch} images (SOLVER.IMS_PER_BATCH), which {self.world_size} process(es) "
                f"cannot take in {self.micro_batches} equal micro-batches. Choose another SOLVER.IMS_PER_PROCESS, or 0 "
                "for no accumulation."
            )

    def batches(self, stream: Stream, wide: Sequence[bool] | None) -> Iterator[list[IndexPair]]:
        """The process's endless batches; `wide` is that of `grouped_batches`."""
        whole = grouped_batches(stream(derive_seed(self.seed, _STREAM)), self.images_per_batch, wide)
        return rank_batches(whole, self.start_iter, self.rank, self.world_size, self.micro_batches)
