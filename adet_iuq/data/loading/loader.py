"""The loader for training."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from adet_iuq.data.loading.lsj import InstanceLSJMapper, PanopticLSJMapper
from adet_iuq.data.loading.mapper import TrainingMapper
from adet_iuq.data.loading.sampler import (
    IndexPair,
    grouped_batches,
    rank_batches,
    repeat_factors,
    repeated_stream,
    shuffled_stream,
)
from adet_iuq.data.loading.workers import WorkerBoard, initialize_worker
from adet_iuq.data.registration.datasets import load_dataset, register_datasets
from adet_iuq.data.seeding import derive_seed
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_STREAM, _SUBSTITUTE = 0, 1  # what a seed is derived for

# From a record with `sample_index` and `sample_seed` to a training sample.
Mapper = Callable[[dict[str, Any]], dict[str, Any]]
# By INPUT.DATASET_MAPPER_NAME.
_MAPPERS: dict[str, Any] = {
    "": TrainingMapper,
    "coco_instance_lsj": InstanceLSJMapper,
    "coco_panoptic_lsj": PanopticLSJMapper,
}


def _mapper_class(cfg: CfgNode) -> Any:
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in _MAPPERS:
        known = ", ".join(f'"{one}"' for one in _MAPPERS)
        raise UserError(f'INPUT.DATASET_MAPPER_NAME is "{name}"; known are {known}.')
    return _MAPPERS[name]


class Failure:
    """A UserError on its way from a worker; torch would bury its message in a traceback."""

    def __init__(self, message: str) -> None:
        self.message = message


class TrainingSamples(Dataset):
    """Maps (position in the data set, global sample number) to a mapped sample, or to a `Failure`.

    Args:
        records: a `DatasetFromList`, or anything that yields fresh records.
        mapper: called with a record that has `sample_index` and `sample_seed`.
        seed: of the run.
        skip: how many unreadable images may be replaced by others; counted in each worker by itself.
        board: where workers note what they read.
    """

    def __init__(self, records: Any, mapper: Mapper, seed: int, skip: int, board: WorkerBoard) -> None:
        self.records, self.mapper, self.seed, self.skip = records, mapper, seed, skip
        self.board = board
        self._unreadable: set[str] = set()

    def __getitem__(self, pair: IndexPair) -> dict[str, Any] | Failure:
        index, sample_index = pair
        sample_seed = derive_seed(self.seed, sample_index)
        attempt = 0
        while True:
            record = self.records[index]
            record.update(sample_index=sample_index, sample_seed=sample_seed)
            self.board.begin(record["file_name"])
            try:
                return self.mapper(record)
            except UserError as error:
                self._unreadable.add(record["file_name"])
                if len(self._unreadable) > self.skip:
                    return Failure(str(error))
                logger.warning("%s Another image takes its place.", error)
            except Exception as error:
                raise RuntimeError(f"While preparing {record['file_name']}: {type(error).__name__}: {error}") from error
            finally:
                self.board.end()
            attempt += 1
            index = derive_seed(sample_seed, _SUBSTITUTE, attempt) % len(self.records)


class TrainLoader:
    """Endless batches of this rank, each a list of mapped samples; every `iter` starts over at the first one.

    Raises, while iterating:
        UserError: an image cannot be read and GUARD.SKIP_CORRUPT_IMAGES is used up.

    Attributes:
        board: what its workers are reading.
    """

    def __init__(
        self, samples: TrainingSamples, batches: Sampler[list[IndexPair]], num_workers: int, seed: int
    ) -> None:
        self.board = samples.board
        # With its own generator the loader draws nothing from the process's; samples bring their seeds along anyhow.
        # The stream never ends, so the workers live as long as the iterator. Persistent ones would hang on the loader
        # instead: after an error its traceback keeps that alive, and the cycle collector then waits 5 s for each.
        self._loader = DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_as_list,
            worker_init_fn=initialize_worker,
            generator=torch.Generator().manual_seed(seed),
        )

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return unwrapped(self._loader)


def _as_list(batch: list[Any]) -> list[Any]:
    return batch


def unwrapped(loader: Any) -> Iterator[list[dict[str, Any]]]:
    """The batches of a loader whose samples may be `Failure`s, which are raised."""
    for batch in loader:
        for sample in batch:
            if isinstance(sample, Failure):
                raise UserError(sample.message)
        yield batch


class _BatchSampler(Sampler[list[IndexPair]]):
    """The slices of one rank; restartable."""

    def __init__(
        self,
        cfg: CfgNode,
        records: list[dict[str, Any]],
        seed: int,
        start: int,
        batch_size: int,
        share: tuple[int, int, int],
    ) -> None:
        self._size, self._seed = len(records), derive_seed(seed, _STREAM)
        self._factors = repeat_factors(cfg.DATALOADER.SAMPLER_TRAIN, records, cfg.DATALOADER.REPEAT_THRESHOLD)
        self._wide = [r["width"] > r["height"] for r in records] if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
        self._start, self._batch_size, self._share = start, batch_size, share

    def __iter__(self) -> Iterator[list[IndexPair]]:
        if self._factors is None:
            stream = shuffled_stream(self._size, self._seed)
        else:
            stream = repeated_stream(self._factors, self._seed)
        return rank_batches(grouped_batches(stream, self._batch_size, self._wide), self._start, *self._share)


def training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """The records of all of DATASETS.TRAIN, `image_id` replaced by the position in their concatenation.

    The original id stands in `dataset_image_id`. DATALOADER.FILTER_EMPTY_ANNOTATIONS drops images that have no annotation,
    or none but crowds; panoptic records, which have segments instead, all stay, as published.

    Raises:
        UserError: DATASETS.TRAIN is empty; a data set lacks the annotations that INPUT.DATASET_MAPPER_NAME needs, or the
            mapper is unknown; nothing is left.
    """
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name at least one data set to train on.")
    needed = _mapper_class(cfg).needs
    records: list[dict[str, Any]] = []
    for name in cfg.DATASETS.TRAIN:
        part = load_dataset(name)
        if needed not in part[0]:
            raise UserError(
                f"Data set '{name}' has no {needed}; it cannot be trained on with INPUT.DATASET_MAPPER_NAME "
                f'"{cfg.INPUT.DATASET_MAPPER_NAME}".'
            )
        records.extend(part)
    for index, record in enumerate(records):
        record["dataset_image_id"], record["image_id"] = record["image_id"], index
    number = len(records)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [r for r in records if _has_instance(r)]
    logger.info("%s: %d images, %d of them used.", ", ".join(cfg.DATASETS.TRAIN), number, len(records))
    if not records:
        raise UserError(f"None of the {number} images of {', '.join(cfg.DATASETS.TRAIN)} has a usable annotation.")
    return records


def _has_instance(record: dict[str, Any]) -> bool:
    if "annotations" not in record:
        return True
    return any(not annotation.get("iscrowd", 0) for annotation in record["annotations"])


def build_train_loader(
    cfg: CfgNode,
    *,
    seed: int,
    start_iter: int,
    images_per_batch: int,
    micro_batches: int = 1,
    rank: int | None = None,
    world_size: int | None = None,
) -> TrainLoader:
    """The endless loader of this rank over DATASETS.TRAIN.

    Sample number n (over all ranks and steps) is the same image with the same augmentation for any number of ranks and
    workers and after any resume. With DATALOADER.ASPECT_RATIO_GROUPING a global batch holds either wide or high images.

    Args:
        cfg: the whole config; its data sets are registered here if they are not yet.
        seed: of the run, any integer, the same on all ranks.
        start_iter: number of batches left out at the start; their images are not read.
        images_per_batch: images of all ranks together, in one step.
        micro_batches: in how many equal parts a rank takes its batch; see `rank_batches`.
        rank, world_size: of this process; None: as detectron2's launcher says.

    Raises:
        UserError: `images_per_batch` does not divide by the number of ranks and micro-batches; no usable image; unknown
            sampler.
    """
    rank = comm.get_rank() if rank is None else rank
    world_size = comm.get_world_size() if world_size is None else world_size
    if images_per_batch < 1 or images_per_batch % world_size:
        raise UserError(
            f"A step loads {images_per_batch} images (SOLVER.IMS_PER_BATCH), which {world_size} processes cannot share "
            f"evenly. Choose a multiple of {world_size}."
        )
    if images_per_batch % (world_size * micro_batches):
        raise UserError(
            f"A step loads {images_per_batch} images (SOLVER.IMS_PER_BATCH), which {world_size} process(es) cannot take in "
            f"{micro_batches} equal micro-batches. Choose another SOLVER.IMS_PER_PROCESS, or 0 for no accumulation."
        )
    register_datasets(cfg)
    records = training_records(cfg)
    batches = _BatchSampler(cfg, records, seed, start_iter, images_per_batch, (rank, world_size, micro_batches))
    dataset = DatasetFromList(records, copy=False)
    board = WorkerBoard(cfg.DATALOADER.NUM_WORKERS)
    samples = TrainingSamples(dataset, _mapper_class(cfg)(cfg), seed, cfg.GUARD.SKIP_CORRUPT_IMAGES, board)
    return TrainLoader(samples, batches, cfg.DATALOADER.NUM_WORKERS, derive_seed(seed))
