"""The types of a mapper and of a sampler, and the registries in which the config finds them by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from detectron2.config import CfgNode

from adet_iuq.errors import UserError
from adet_iuq.registry import Registry, callable_name

# Turns a record into a training sample, like detectron2's DatasetMapper. None: there is no sample, another record is taken.
Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]
# Turns a seed into an endless sequence of positions in the data set, the same in every process.
Stream = Callable[[int], Iterator[int]]

# Functions or classes that make a mapper from a config, by INPUT.DATASET_MAPPER_NAME.
MAPPER_REGISTRY: Registry[Callable[[CfgNode], Mapper]] = Registry("mapper")
# Functions of the config and all records that make a stream, by DATALOADER.SAMPLER_TRAIN.
SAMPLER_REGISTRY: Registry[Callable[[CfgNode, Sequence[dict[str, Any]]], Stream]] = Registry("sampler")


class SampleMapper(ABC):
    """A mapper that declares what it needs. Any other mapper, such as detectron2's, is assumed to need "annotations".

    Besides detectron2's entries a record has `image_id` (its position in DATASETS.TRAIN as a whole), `sample_index` (the
    number of the sample in the run) and `sample_seed`. During every call, Python's, numpy's and torch's global
    generators are seeded with `sample_seed`, so that a sample is the same on any number of processes and workers and
    after any resume. The loader adds these three entries to a sample that lacks them, because the pixel memory tells
    images apart by them.
    """

    needs: ClassVar[str] = "annotations"  # a key that every record must have

    @abstractmethod
    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """The sample of a record: `image` (3, H, W) and `instances`. It raises UserError if the image cannot be read."""


def needs_of(mapper: Mapper) -> str:
    """The key that every record must have for this mapper."""
    return mapper.needs if isinstance(mapper, SampleMapper) else SampleMapper.needs


def build_mapper(cfg: CfgNode) -> Mapper:
    """The mapper that INPUT.DATASET_MAPPER_NAME names.

    Raises:
        UserError: there is no such mapper.
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
    """Checks that the first record of a data set has what the mapper needs.

    Args:
        name: the name of the data set.
        record: its first record.
        mapper: the mapper of its records.
        mapper_name: INPUT.DATASET_MAPPER_NAME.

    Raises:
        UserError: the record lacks the key that the mapper needs.
    """
    needs = needs_of(mapper)
    if needs not in record:
        raise UserError(
            f"Data set '{name}' has no {needs}; it cannot be trained on with {callable_name(mapper)} (the mapper of "
            f'INPUT.DATASET_MAPPER_NAME "{mapper_name}", or that of an overridden build_train_loader). A mapper that needs '
            "something else says so in `needs` of adet_iuq.data.SampleMapper."
        )
