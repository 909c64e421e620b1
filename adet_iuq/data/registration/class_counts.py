"""The number of classes of a run, and the keys NUM_CLASSES of its config."""

from collections.abc import Set

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from adet_iuq.config.num_classes import num_classes_sections
from adet_iuq.data.registration.class_names import TrainedClasses, match_classes
from adet_iuq.data.registration.datasets import load_dataset, register_datasets
from adet_iuq.errors import UserError


def fill_class_counts(cfg: CfgNode, overridden: Set[str] = frozenset(), trained: TrainedClasses | None = None) -> None:
    """Sets each key called NUM_CLASSES, wherever it is in `cfg`, unless the command line has set it.

    The number is that of the thing classes of DATASETS.TRAIN, or of DATASETS.TEST if nothing is trained on.
    MODEL.SEM_SEG_HEAD.NUM_CLASSES gets the number of things and stuff together if the data set has stuff classes.
    Values in YAML files are replaced, because published files name COCO's 80 whatever they are trained on. The data
    sets are registered first, and their classes get the same numbers (`match_classes`).

    Args:
        cfg: an unfrozen config, which is changed in place.
        overridden: the dotted names of the keys that the command line has set, which stay.
        trained: the classes of the weights that the run starts from, if they are known.

    Raises:
        UserError: a number on the command line is smaller than the data set's, or larger and there is an evaluation; the
            classes of the data sets differ from each other or from those of the weights; or `register_datasets` fails.
    """
    register_datasets(cfg)
    names = list(cfg.DATASETS.TRAIN) or list(cfg.DATASETS.TEST)
    if not names:
        return
    things, total = _common_counts(cfg, names)
    match_classes(cfg, trained)
    for key, section in num_classes_sections(cfg).items():
        needed = total if "SEM_SEG_HEAD" in key else things
        if key not in overridden:
            section.NUM_CLASSES = needed
        elif needed != section.NUM_CLASSES:
            _refuse_unfit(cfg, key, section.NUM_CLASSES, needed, names[0])


def class_counts(name: str) -> tuple[int, int]:
    """The number of thing classes, and of thing and stuff classes together, in a data set.

    detectron2's metadata comes in three kinds: things only; "standard" panoptic, where both lists name all classes; and
    "separated" panoptic, where the stuff list starts with one entry "things".
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is None and metadata.get("stuff_classes") is None:
        load_dataset(name)  # LVIS sets its metadata while it is read
    things = metadata.get("thing_classes") or []
    stuff = metadata.get("stuff_classes") or []
    numbers = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    count = min(len(things), len(set(numbers.values()))) if numbers else len(things)
    if not stuff:
        return count, count
    joint = stuff[0] == "things" or set(things) <= set(stuff)
    return count, len(stuff) if joint else count + len(stuff)


def _common_counts(cfg: CfgNode, names: list[str]) -> tuple[int, int]:
    """The numbers of the first set; `match_classes` ensures that every other set has as many things."""
    counts = class_counts(names[0])
    if counts[1] == 0:
        raise UserError(f"Data set '{names[0]}' names no classes.")
    for name in (*names, *cfg.DATASETS.TEST):
        class_counts(name)  # LVIS sets its metadata while it is read
    return counts


def _refuse_unfit(cfg: CfgNode, key: str, count: int, needed: int, name: str) -> None:
    """Refuses a number on the command line, unless it is larger and nothing is evaluated."""
    if count < needed:
        raise UserError(
            f"{key} is {count}, but data set '{name}' has {needed} classes. Remove the key (it is then filled in) or set it "
            f"to at least {needed}."
        )
    if cfg.DATASETS.TEST:
        raise UserError(
            f"{key} is {count} on the command line, but data set '{cfg.DATASETS.TEST[0]}' has {needed} classes: a model "
            f"that predicts others cannot be evaluated on it. Remove the key (it is then filled in), or train without an "
            'evaluation: DATASETS.TEST "()".'
        )
