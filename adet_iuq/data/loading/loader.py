"""The loader for training."""

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.utils.data import DataLoader

import adet_iuq.data.loading.lsj  # noqa: F401  registers its mappers
import adet_iuq.data.loading.mapper  # noqa: F401  registers its mapper
from adet_iuq.data.loading.registries import Mapper, SampleMapper, build_mapper, build_stream, check_needs
from adet_iuq.data.loading.sampler import BatchPlan
from adet_iuq.data.loading.samples import Failure, TrainingSamples, unwrapped
from adet_iuq.data.loading.selection import Selection
from adet_iuq.data.loading.workers import WorkerBoard, initialize_worker
from adet_iuq.data.registration.datasets import load_dataset, register_datasets
from adet_iuq.data.seeding import derive_seed
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


class TrainLoader:
    """Endless batches of this rank, each a list of mapped samples; every `iter` starts again at the first batch.

    Raises, while iterating:
        UserError: an image cannot be read and GUARD.SKIP_CORRUPT_IMAGES is used up.

    Attributes:
        board: shows which files the workers are reading.
        plan: decides which samples the loader yields.
    """

    def __init__(self, cfg: CfgNode, records: Selection, mapper: Mapper, plan: BatchPlan) -> None:
        """
        Args:
            cfg: the config, of which DATALOADER and GUARD are read.
            records: the records of all data sets together.
            mapper: the function that turns a record into a sample.
            plan: decides which samples make up which batch.
        """
        self.board = WorkerBoard(cfg.DATALOADER.NUM_WORKERS)
        self.plan = plan
        self._workers, self._skip = cfg.DATALOADER.NUM_WORKERS, cfg.GUARD.SKIP_CORRUPT_IMAGES
        self._stream = build_stream(cfg, records)
        self._wide = records.is_wide.tolist() if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
        self._records, self._mapper = records, mapper

    @property
    def num_images(self) -> int:
        """The number of images that are trained on."""
        return len(self._records)

    def start_at(self, *, seed: int, iteration: int, images_per_batch: int, micro_batches: int) -> None:
        """Makes the next `iter` begin with the batch of an iteration.

        The trainer calls it, because only the trainer knows these
        numbers. They replace those that the loader was built with.

        Args:
            seed: the seed of the run, as for `BatchPlan`.
            iteration: the number of batches before the first one, `start_iter` of `BatchPlan`.
            images_per_batch: the images of all processes together in one step, as for `BatchPlan`.
            micro_batches: the number of equal parts of a batch, as for `BatchPlan`.

        Raises:
            UserError: the images cannot be shared evenly.
        """
        numbers = {"start_iter": iteration, "images_per_batch": images_per_batch, "micro_batches": micro_batches}
        self.plan = dataclasses.replace(self.plan, seed=seed, **numbers)

    def first_samples(self, count: int) -> Iterator[dict[str, Any]] | None:
        """The run's first samples, over all processes, mapped here and now. They do not change the results of `iter`.

        Unreadable images are replaced as in the run, or left out. The result is None if the mapper is no
        `SampleMapper`, because another mapper may keep state between calls, which further calls would change.
        """
        if not isinstance(self._mapper, SampleMapper):
            return None
        plan = dataclasses.replace(self.plan, start_iter=0, micro_batches=1, rank=0, world_size=1)
        samples = TrainingSamples(self._records, self._mapper, plan.seed, self._skip, WorkerBoard(0))
        pairs = itertools.chain.from_iterable(plan.batches(self._stream, self._wide))
        mapped = (samples[pair] for pair in itertools.islice(pairs, count))
        return (sample for sample in mapped if not isinstance(sample, Failure))

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        # With its own generator the loader draws nothing from the process's; samples have their own seeds anyway. The stream
        # never ends, so the workers live as long as the iterator. Persistent workers would live as long as the loader: after
        # an error its traceback keeps that alive, and the cycle collector then waits 5 s for each worker.
        loader = DataLoader(
            TrainingSamples(self._records, self._mapper, self.plan.seed, self._skip, self.board),
            batch_sampler=self.plan.batches(self._stream, self._wide),
            num_workers=self._workers,
            collate_fn=_as_list,
            worker_init_fn=initialize_worker,
            generator=torch.Generator().manual_seed(derive_seed(self.plan.seed)),
        )
        return unwrapped(loader)


def _as_list(batch: list[Any]) -> list[Any]:
    return batch


def training_records(cfg: CfgNode, mapper: Mapper | None = None) -> Selection:
    """The records of all of DATASETS.TRAIN, with `image_id` replaced by the position in their concatenation.

    Each access makes a new record (`Selection`). DATALOADER.FILTER_EMPTY_ANNOTATIONS drops images that have no
    annotation or only crowds. Panoptic records, which have segments instead, all stay, as published.

    Args:
        cfg: the config, of which DATASETS, DATALOADER and INPUT are read.
        mapper: the mapper whose needs the records must meet; None: that of INPUT.DATASET_MAPPER_NAME.

    Raises:
        UserError: DATASETS.TRAIN is empty; a data set lacks the annotations that the mapper needs; the mapper is
            unknown; or nothing is left.
    """
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name at least one data set to train on.")
    mapper = build_mapper(cfg) if mapper is None else mapper
    parts = []
    for name in cfg.DATASETS.TRAIN:
        part = load_dataset(name)
        check_needs(name, part[0], mapper, cfg.INPUT.DATASET_MAPPER_NAME)
        parts.append(part)
    number = sum(map(len, parts))
    records = Selection(parts, only_with_instances=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    logger.info("%s: %d images, %d of them used.", ", ".join(cfg.DATASETS.TRAIN), number, len(records))
    if not records:
        raise UserError(f"None of the {number} images of {', '.join(cfg.DATASETS.TRAIN)} has a usable annotation.")
    return records


def build_train_loader(
    cfg: CfgNode,
    *,
    mapper: Mapper | None = None,
    seed: int | None = None,
    start_iter: int = 0,
    images_per_batch: int | None = None,
    micro_batches: int = 1,
    rank: int | None = None,
    world_size: int | None = None,
) -> TrainLoader:
    """The endless loader of this rank over DATASETS.TRAIN.

    Sample number n (over all ranks and steps) is the same image with the same augmentation for any number of ranks and
    workers and after any resume. With DATALOADER.ASPECT_RATIO_GROUPING a global batch holds only wide or only high images.

    A trainer gets a loader of its own by `return build_train_loader(cfg, mapper=MyMapper(cfg))` in an overridden
    `Trainer.build_train_loader(cls, cfg)`. The trainer then sets seed, iteration, images and micro-batches itself
    (`TrainLoader.start_at`), so they need not be given.

    Args:
        cfg: the whole config. Its data sets are registered here if necessary.
        mapper: any function from a record to a sample, for example detectron2's DatasetMapper. `SampleMapper` describes
            its input, and how its random numbers are seeded. None: that of INPUT.DATASET_MAPPER_NAME.
        seed: the seed of the run, the same on all ranks; None: SEED, or 0 if that is negative.
        start_iter: the number of batches left out at the start; their images are not read.
        images_per_batch: the images of all ranks together in one step; None: SOLVER.IMS_PER_BATCH.
        micro_batches: the number of equal parts in which a rank takes its batch; see `rank_batches`.
        rank: the number of this process; None: that of detectron2's launcher.
        world_size: the number of processes; None: that of detectron2's launcher.

    Raises:
        UserError: `images_per_batch` is not divisible by the number of ranks and micro-batches; no image is usable; or
            the mapper or the sampler is unknown.
    """
    plan = BatchPlan(
        seed=max(cfg.SEED, 0) if seed is None else seed,
        start_iter=start_iter,
        images_per_batch=cfg.SOLVER.IMS_PER_BATCH if images_per_batch is None else images_per_batch,
        micro_batches=micro_batches,
        rank=comm.get_rank() if rank is None else rank,
        world_size=comm.get_world_size() if world_size is None else world_size,
    )
    register_datasets(cfg)
    mapper = build_mapper(cfg) if mapper is None else mapper
    return TrainLoader(cfg, training_records(cfg, mapper), mapper, plan)
