"""From the keys of MODEL.IUQ to the criterion; the one place where the core's settings meet a config."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from detectron2.config import CfgNode

from adet_iuq.errors import UserError
from adet_iuq.iuq import EquivarianceLoss, InterSceneLoss, IUQCriterion, PixelMemory, build_sampler

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Settings = TypeVar("Settings")


def build_criterion(cfg: CfgNode, memory_arguments: Mapping[str, Any]) -> IUQCriterion:
    """The criterion that MODEL.IUQ describes, with a memory if it has an inter-scene term.

    Args:
        cfg: the whole config.
        memory_arguments: of `IUQMetaArch.memory_arguments`.

    Raises:
        UserError: a value that the method does not know.
    """
    iuq, memory = cfg.MODEL.IUQ, cfg.MODEL.IUQ.MEMORY
    if memory.DTYPE not in _DTYPES:
        raise UserError(f'MODEL.IUQ.MEMORY.DTYPE is "{memory.DTYPE}"; it can be {" or ".join(_DTYPES)}.')
    kept = {"capacity": memory.CAPACITY, "shard": memory.SHARD, "check_period": memory.CHECK_PERIOD}
    try:
        return IUQCriterion(
            memory=PixelMemory(**memory_arguments, **kept, dtype=_DTYPES[memory.DTYPE]) if iuq.INTER.ENABLED else None,
            sampler=build_sampler(
                memory.SAMPLER,
                pixels_per_instance=memory.PIXELS_PER_INSTANCE,
                pixels_per_image=memory.PIXELS_PER_IMAGE,
            ),
            inter=settings_from(InterSceneLoss, iuq.INTER, "MODEL.IUQ.INTER") if iuq.INTER.ENABLED else None,
            equi=settings_from(EquivarianceLoss, iuq.EQUI, "MODEL.IUQ.EQUI") if iuq.EQUI.ENABLED else None,
            reduce_normalizer=cfg.MODEL.REDUCE_NORMALIZER,
        )
    except ValueError as error:
        raise UserError(f"MODEL.IUQ.MEMORY: {error}") from error


def settings_from(kind: type[Settings], section: CfgNode, name: str) -> Settings:
    """A dataclass of settings from the keys of a section that bear its fields' names, in capitals.

    Args:
        kind: the dataclass.
        section: of a config.
        name: of the section, for the message.

    Raises:
        UserError: the dataclass refuses a value.
    """
    try:
        return kind(**{field.name: section[field.name.upper()] for field in fields(kind)})  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
