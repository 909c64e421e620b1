"""Matches classes by name, so that a model's class numbers mean the same in every data set that it meets.

Converters number categories by first appearance, so two files of one project often have the same classes under other
ids. Then numbers mean nothing, but names do.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from adet_iuq.data.registration.datasets import order_classes, used_names
from adet_iuq.data.registration.entries import own_names
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedClasses:
    """The thing classes that weights were trained on.

    Attributes:
        names: the names of the classes in the order of their numbers.
        source: the file of the weights.
        binding: whether exactly these classes must be used, as in an evaluation or a resumed run. A training that
            starts from the weights may have other classes.
    """

    names: tuple[str, ...]
    source: str
    binding: bool


def match_classes(cfg: CfgNode, trained: TrainedClasses | None = None) -> None:
    """Gives the classes of all data sets of the run the same numbers: those of the weights, or of the first data set.

    A data set with the same names in another order gets that order, in its metadata and its records.

    Args:
        cfg: the config, whose data sets are registered.
        trained: the classes of the weights that the run starts from, if they are known.

    Raises:
        UserError: a data set has other names, or has them in another order and is not one of DATASETS.REGISTER.
    """
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    own = own_names(cfg)
    for name in own & set(names):
        order_classes(name, None)
    wanted, source = thing_classes(names[0]), f"data set '{names[0]}'"
    if trained is not None and (trained.binding or sorted(trained.names) == sorted(wanted)):
        wanted, source = list(trained.names), f"the weights {trained.source}"
    for name in used_names(cfg):
        found = thing_classes(name)
        if found == wanted:
            continue
        if sorted(found) != sorted(wanted):
            raise UserError(_other_names(name, found, source, wanted))
        if name not in own:
            raise UserError(_other_order(name, source))
        order_classes(name, wanted)
        logger.info("Data set '%s' lists its classes in another order than %s; they are matched by name.", name, source)


def thing_classes(name: str) -> list[str]:
    """The names of a data set's things by number, without the stuff that detectron2 lists after them in panoptic sets."""
    metadata = MetadataCatalog.get(name)
    classes = list(metadata.get("thing_classes") or [])
    numbers = set((metadata.get("thing_dataset_id_to_contiguous_id") or {}).values())
    return classes[: len(numbers)] if numbers else classes


def _other_names(name: str, found: Sequence[str], source: str, wanted: Sequence[str]) -> str:
    missing = [one for one in wanted if one not in found]
    surplus = [one for one in found if one not in wanted]
    differences = [f"lacks {_listed(missing)}"] * bool(missing) + [f"adds {_listed(surplus)}"] * bool(surplus)
    return (
        f"{source[0].upper()}{source[1:]} ({_described(wanted)}) and data set '{name}' ({_described(found)}) have "
        f"different classes: the latter {' and '.join(differences) or 'has a name more often'}. One model cannot serve "
        "both. Give the files the same 'categories' (their order and ids do not matter), or change DATASETS.TRAIN or "
        'DATASETS.TEST (DATASETS.TRAIN "()" takes the classes from DATASETS.TEST).'
    )


def _other_order(name: str, source: str) -> str:
    return (
        f"Data set '{name}' has the classes of {source} in another order. Classes are matched by name in data sets of "
        "DATASETS.REGISTER only: register its JSON file there under a name of your own."
    )


def _described(classes: Sequence[str]) -> str:
    return f"{len(classes)} classes: {_listed(classes)}"


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
