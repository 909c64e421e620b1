"""Writes config and class names beside a training's checkpoints, so that these can be used without the data."""

import json
import logging
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from adet_iuq.data.registration.class_names import TrainedClasses
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)

CONFIG_FILE, CLASSES_FILE = "config.yaml", "classes.json"


def class_names(cfg: CfgNode) -> dict[str, Any]:
    """`thing_classes`, the names by class, and `category_ids`, the data set's own, of the first test or training set.

    Both are empty if the config names no data set.
    """
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    found = MetadataCatalog.get(names[0]) if names else None
    classes = list(found.get("thing_classes") or []) if found else []
    numbers = (found.get("thing_dataset_id_to_contiguous_id") or {}) if found else {}
    return {"thing_classes": classes, "category_ids": {index: number for number, index in numbers.items()}}


def write_description(cfg: CfgNode) -> None:
    """Writes both files to OUTPUT_DIR. The main process calls it once a run is certain to start.

    Raises:
        UserError: a file cannot be written.
    """
    _write(Path(cfg.OUTPUT_DIR) / CONFIG_FILE, cfg.dump())
    _write(Path(cfg.OUTPUT_DIR) / CLASSES_FILE, json.dumps(class_names(cfg)) + "\n")


def read_class_names(weights: str) -> dict[str, Any] | None:
    """The class names that lie beside a checkpoint, in the form of `class_names`; None if there are none.

    Another program may leave a file of that name with other content; it is ignored with a warning.
    """
    path = Path(weights).expanduser().parent / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        numbers = {int(index): number for index, number in content["category_ids"].items()}
        return {**content, "thing_classes": [str(name) for name in content["thing_classes"]], "category_ids": numbers}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s holds no class names (%s: %s); it is ignored.", path, type(error).__name__, error)
        return None


def trained_classes(weights: str, *, binding: bool) -> TrainedClasses | None:
    """The classes of a checkpoint by the file beside it; None if they are not known.

    Args:
        weights: the path of the checkpoint; empty: there is none.
        binding: whether the run must use exactly these classes.
    """
    found = read_class_names(weights) if weights else None
    if found is None or not found["thing_classes"]:
        return None
    return TrainedClasses(tuple(found["thing_classes"]), weights, binding)


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write(text.encode()))
