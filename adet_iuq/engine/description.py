"""What a training leaves beside its checkpoints so that they can be used without its data: config and class names."""

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
    """Of the first test or training set: `thing_classes`, names by class, and `category_ids`, the data set's own by class.

    Both are empty where the config names no data set.
    """
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    found = MetadataCatalog.get(names[0]) if names else None
    classes = list(found.get("thing_classes") or []) if found else []
    numbers = (found.get("thing_dataset_id_to_contiguous_id") or {}) if found else {}
    return {"thing_classes": classes, "category_ids": {index: number for number, index in numbers.items()}}


def write_description(cfg: CfgNode) -> None:
    """Writes both files to OUTPUT_DIR; the main process calls it once a run is certain to start.

    Raises:
        UserError: they cannot be written.
    """
    _write(Path(cfg.OUTPUT_DIR) / CONFIG_FILE, cfg.dump())
    _write(Path(cfg.OUTPUT_DIR) / CLASSES_FILE, json.dumps(class_names(cfg)) + "\n")


def read_class_names(weights: str) -> dict[str, Any] | None:
    """The class names that lie beside a checkpoint, as `class_names` gives them; None without any.

    A file of that name that says something else, as other programs may leave one, is passed over with a warning.
    """
    path = Path(weights).expanduser().parent / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        numbers = {int(index): number for index, number in content["category_ids"].items()}
        return {**content, "thing_classes": [str(name) for name in content["thing_classes"]], "category_ids": numbers}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s holds no class names (%s: %s); it is passed over.", path, type(error).__name__, error)
        return None


def trained_classes(weights: str, *, binding: bool) -> TrainedClasses | None:
    """The classes of a checkpoint by the file beside it; None where nothing is known.

    Args:
        weights: path of the checkpoint; empty: none.
        binding: whether they must serve as they are.
    """
    found = read_class_names(weights) if weights else None
    if found is None or not found["thing_classes"]:
        return None
    return TrainedClasses(tuple(found["thing_classes"]), weights, binding)


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write(text.encode()))
