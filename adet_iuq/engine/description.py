"""What a training leaves beside its checkpoints so that they can be used without its data: config and class names."""

import json
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from adet_iuq.files import replace_file

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
    """The class names that lie beside a checkpoint, as `class_names` gives them; None without any."""
    path = Path(weights).expanduser().parent / CLASSES_FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    return {**content, "category_ids": {int(index): number for index, number in content["category_ids"].items()}}


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write(text.encode()))
