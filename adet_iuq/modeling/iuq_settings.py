"""Turns the keys of MODEL.IUQ into the criterion; only here the core's settings meet a config."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from detectron2.config import CfgNode

from adet_iuq.errors import UserError
from adet_iuq.iuq import EquivarianceLoss, InterSceneLoss, IUQCriterion, PixelMemory, build_sampler

if TYPE_CHECKING:
    from _typeshed import DataclassInstance  # any dataclass, to type checkers

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Settings = TypeVar("Settings", bound="DataclassInstance")


def build_criterion(cfg: CfgNode, memory_arguments: Mapping[str, Any], mask_loss_factor: float = 1.0) -> IUQCriterion:
    """The criterion that MODEL.IUQ describes, with a memory if it has an inter-scene term.

    Args:
        cfg: the whole config.
        memory_arguments: the result of `IUQMetaArch.memory_arguments`.
        mask_loss_factor: the result of `IUQMetaArch.mask_loss_factor`.

    Raises:
        UserError: the method does not know a value.
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
            inter=inter_settings(cfg) if iuq.INTER.ENABLED else None,
            equi=equi_settings(cfg, mask_loss_factor) if iuq.EQUI.ENABLED else None,
            own_batch=memory.OWN_BATCH,
            reduce_normalizer=cfg.MODEL.REDUCE_NORMALIZER,
        )
    except ValueError as error:
        raise UserError(f"MODEL.IUQ.MEMORY: {error}") from error


def inter_settings(cfg: CfgNode) -> InterSceneLoss:
    """The inter-scene term of MODEL.IUQ.INTER. A negative START_ITER or RAMP_ITERS is replaced by its share of MAX_ITER.

    Raises:
        UserError: the term does not know a value, or a share lies outside 0 to 1.
    """
    inter = cfg.MODEL.IUQ.INTER
    for name in ("START_SHARE", "RAMP_SHARE"):
        if not 0 <= inter[name] <= 1:
            raise UserError(
                f"MODEL.IUQ.INTER.{name} is {inter[name]}; a share of SOLVER.MAX_ITER lies between 0 and 1."
            )
    total = cfg.SOLVER.MAX_ITER
    return settings_from(
        InterSceneLoss,
        inter,
        "MODEL.IUQ.INTER",
        start_iter=inter.START_ITER if inter.START_ITER >= 0 else round(inter.START_SHARE * total),
        ramp_iters=inter.RAMP_ITERS if inter.RAMP_ITERS >= 0 else round(inter.RAMP_SHARE * total),
    )


def equi_settings(cfg: CfgNode, mask_loss_factor: float) -> EquivarianceLoss:
    """The equivariance term of MODEL.IUQ.EQUI, with `mask_loss_factor` times lambda if RELATIVE_TO_BASE and Eq. 8 are set.

    Raises:
        UserError: the term does not know a value.
    """
    equi = cfg.MODEL.IUQ.EQUI
    relative = equi.RELATIVE_TO_BASE and equi.TARGET == "query"
    weight = equi.WEIGHT * (mask_loss_factor if relative else 1.0)
    return settings_from(EquivarianceLoss, equi, "MODEL.IUQ.EQUI", weight=weight)


def settings_from(kind: type[Settings], section: CfgNode, name: str, **values: Any) -> Settings:
    """A dataclass of settings, made from the keys of a config section that are its fields' names in capitals.

    Args:
        kind: the dataclass.
        section: the section of a config.
        name: the name of the section, for the message.
        values: the fields that are not taken from the section.

    Raises:
        UserError: the dataclass refuses a value.
    """
    named = {field.name: section[field.name.upper()] for field in fields(kind)}
    try:
        return kind(**{**named, **values})
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
