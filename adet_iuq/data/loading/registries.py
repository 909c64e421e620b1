"""What a mapper and a sampler are, and the registries in which the config finds them by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from detectron2.config import CfgNode

from adet_iuq.errors import UserError
from adet_iuq.registry import Registry, callable_name

# From a record to a training sample, as detectron2's DatasetMapper; None: this record gives no sample, take another one.
Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]
# From a seed to an endless row of positions in the data set, the same in every process.
Stream = Callable[[int], Iterator[int]]

# By INPUT.DATASET_MAPPER_NAME: a function or class that makes a mapper of a config.
MAPPER_REGISTRY: Registry[Callable[[CfgNode], Mapper]] = Registry("mapper")
# By DATALOADER.SAMPLER_TRAIN: a function of the config and all records that makes a stream.
SAMPLER_REGISTRY: Registry[Callable[[CfgNode, Sequence[dict[str, Any]]], Stream]] = Registry("sampler")


class SampleMapper(ABC):
    """A mapper that says what it needs; one of another class, such as detectron2's, is taken to need "annotations".

    Besides detectron2's entries a record has `image_id` (its position in DATASETS.TRAIN as a whole), `sample_index` (the
    number of the sample in the run) and `sample_seed`. Around every call, Python's, numpy's and torch's global generators
    are seeded with `sample_seed`, so that a sample looks the same on any number of processes and workers and after any
    resume. The loader adds these three entries to a sample that lacks them: the pixel memory tells images apart by them.
    """

    needs: ClassVar[str] = "annotations"  # a key that every record must have

    @abstractmethod
    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """The sample of a record: `image` (3, H, W) and `instances`; UserError if its image cannot be read."""


def needs_of(mapper: Mapper) -> str:
    """The key that every record must have for this mapper."""
    return mapper.needs if isinstance(mapper, SampleMapper) else SampleMapper.needs


def build_mapper(cfg: CfgNode) -> Mapper:
    """The mapper that INPUT.DATASET_MAPPER_NAME names.

    Raises:
        UserError: there is none.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    build = MAPPER_REGISTRY.get(name)
    if build is None:
        known = ", ".join(f'"{one}"' for one in MAPPER_REGISTRY.names)
        raise UserError(f'INPUT.DATASET_MAPPER_NAME is "{name}"; known are {known}.')
    return build(cfg)


def build_stream(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> Stream:
    """The order in which DATALOADER.SAMPLER_TRAIN goes through the records.

    Raises:
        UserError: there is no such sampler.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    build = SAMPLER_REGISTRY.get(name)
    if build is None:
        raise UserError(f"DATALOADER.SAMPLER_TRAIN '{name}': choose {' or '.join(SAMPLER_REGISTRY.names)}.")
    return build(cfg, records)


def check_needs(name: str, record: dict[str, Any], mapper: Mapper, mapper_name: str) -> None:
    """Looks whether the first record of a data set has what the mapper needs.

    Args:
        name: of the data set.
        record: its first one.
        mapper: called with all of them.
        mapper_name: INPUT.DATASET_MAPPER_NAME.

    Raises:
        UserError: the record lacks that key.
    """
    needs = needs_of(mapper)
    if needs not in record:
        raise UserError(
            f"Data set '{name}' has no {needs}; it cannot be trained on with {callable_name(mapper)} (the mapper of "
            f'INPUT.DATASET_MAPPER_NAME "{mapper_name}", or that of an overridden build_train_loader). A mapper that needs '
            "something else says so in `needs` of adet_iuq.data.SampleMapper."
        )
