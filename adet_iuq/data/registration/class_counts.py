"""Filling every NUM_CLASSES of a config from its data sets."""

import logging
from collections.abc import Set

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from adet_iuq.config.num_classes import num_classes_sections
from adet_iuq.data.registration.datasets import load_dataset, register_datasets
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


def fill_class_counts(cfg: CfgNode, explicit: Set[str] = frozenset()) -> None:
    """Sets each key called NUM_CLASSES, wherever it stands in `cfg`, that the user has not set.

    The count is the number of thing classes of DATASETS.TRAIN, or of DATASETS.TEST if nothing is trained on.
    MODEL.SEM_SEG_HEAD.NUM_CLASSES gets things and stuff together where the data set has stuff classes. Registers the data
    sets first.

    Args:
        cfg: an unfrozen config; changed in place.
        explicit: dotted names of the keys that the user has set; they stay.

    Raises:
        UserError: a count set by the user is smaller than the data set's; the data sets disagree with each other;
            and whatever `register_datasets` raises.
    """
    register_datasets(cfg)
    names = list(cfg.DATASETS.TRAIN) or list(cfg.DATASETS.TEST)
    if not names:
        return
    things, total = _common_counts(cfg, names)
    for key, section in num_classes_sections(cfg).items():
        needed = total if "SEM_SEG_HEAD" in key else things
        if key not in explicit:
            section.NUM_CLASSES = needed
        elif needed > section.NUM_CLASSES:
            raise UserError(
                f"{key} is {section.NUM_CLASSES}, but data set '{names[0]}' has {needed} classes. Remove the key (it is "
                f"then filled in) or set it to at least {needed}."
            )


def class_counts(name: str) -> tuple[int, int]:
    """How many thing classes, and how many thing and stuff classes together, a data set has.

    detectron2's metadata comes in three kinds: things only; "standard" panoptic, where both lists name all classes; and
    "separated" panoptic, where the stuff list starts with one entry "things".
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("stuff_classes") is None:
        load_dataset(name)  # LVIS fills its metadata while reading
    things = metadata.get("thing_classes") or []
    stuff = metadata.get("stuff_classes") or []
    numbers = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    count = min(len(things), len(set(numbers.values()))) if numbers else len(things)
    if not stuff:
        return count, count
    joint = stuff[0] == "things" or set(things) <= set(stuff)
    return count, len(stuff) if joint else count + len(stuff)


def _common_counts(cfg: CfgNode, names: list[str]) -> tuple[int, int]:
    first = class_counts(names[0])
    if first[1] == 0:
        raise UserError(f"Data set '{names[0]}' names no classes.")
    for name in dict.fromkeys([*names, *cfg.DATASETS.TEST]):
        counts = class_counts(name)
        mine, other = (MetadataCatalog.get(n).get("thing_classes") for n in (names[0], name))
        if counts[0] != first[0] or (name in names and mine != other):
            raise UserError(
                f"Data sets '{names[0]}' ({_described(mine)}) and '{name}' ({_described(other)}) have different classes; "
                'one model cannot serve both. Change DATASETS.TRAIN or DATASETS.TEST (DATASETS.TRAIN "()" takes the '
                "classes from DATASETS.TEST), or give both files the same 'categories'."
            )
        if mine != other:
            logger.warning("Classes of '%s' and '%s' are as many, but have other names.", names[0], name)
    return first


def _described(classes: list[str] | None) -> str:
    classes = classes or []
    return f"{len(classes)} classes: {', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}"
