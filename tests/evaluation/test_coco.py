"""COCO's metrics of perfect predictions: 100, whatever numbers the classes have and however many objects there are."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances

from adet_iuq.config import load_config
from adet_iuq.data import fill_class_counts, load_dataset
from adet_iuq.evaluation import build_evaluator
from adet_iuq.evaluation.backends import BACKENDS

NAMES = ("cell", "debris", "egg")


def write(folder: Path, order: tuple[str, ...], cells: int) -> str:
    """One image with so many cells of 4 x 4 pixels in a grid, one piece of debris and no egg; ids in this order."""
    ids = {name: number + 1 for number, name in enumerate(order)}
    annotations = []
    for number in range(cells + 1):
        x, y = number % 16 * 6, number // 16 * 6
        corners = [x, y, x + 4, y, x + 4, y + 4, x, y + 4]
        category = ids["debris" if number == cells else "cell"]
        annotations.append(
            {"id": number + 1, "image_id": 1, "category_id": category, "iscrowd": 0, "area": 16, "bbox": [x, y, 4, 4]}
            | {"segmentation": [corners]}
        )
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 96, "width": 96}],
        "categories": [{"id": ids[name], "name": name} for name in order],
        "annotations": annotations,
    }
    path = folder / f"{'_'.join(order)}_{cells}.json"
    path.write_text(json.dumps(content))
    return str(path)


def perfect(folder: Path, cfg: CfgNode, name: str, cells: int) -> dict[str, Any]:
    """What the evaluator says of the truth, whose classes are numbered as in NAMES."""
    evaluator = build_evaluator(cfg, name, str(folder / "inference"))
    evaluator.reset()
    (record,) = load_dataset(name)
    masks = np.zeros((cells + 1, 96, 96), dtype=bool)
    for number in range(cells + 1):
        x, y = number % 16 * 6, number // 16 * 6
        masks[number, y : y + 4, x : x + 4] = True
    found = Instances((96, 96))
    found.pred_masks = torch.from_numpy(masks)
    found.pred_boxes = BitMasks(found.pred_masks).get_bounding_boxes()
    found.scores = torch.full((cells + 1,), 0.9)
    found.pred_classes = torch.tensor([0] * cells + [1])
    evaluator.process([record], [{"instances": found}])
    return dict(evaluator.evaluate())


def config(folder: Path, cells: int, *options: str) -> tuple[CfgNode, str]:
    """Trained on a file in the order of NAMES, tested on one in another order."""
    train, test = write(folder, NAMES, cells), write(folder, ("egg", "debris", "cell"), cells)
    names = [f"{folder.name}_{end}" for end in ("train", "test")]
    register = str([[names[0], train, str(folder)], [names[1], test, str(folder)]])
    words = ["DATASETS.REGISTER", register, "DATASETS.TRAIN", f"('{names[0]}',)", "DATASETS.TEST", f"('{names[1]}',)"]
    cfg = load_config(None, [*words, "MODEL.MASK_ON", "True", *options]).cfg
    fill_class_counts(cfg)
    return cfg, names[1]


@pytest.mark.parametrize("backend", [name for name, one in BACKENDS.items() if importlib.util.find_spec(one.module)])
def test_classes_in_another_order_are_right_by_name(tmp_path: Path, backend: str) -> None:
    cfg, name = config(tmp_path, 3, "TEST.EVAL_BACKEND", backend)
    metrics = perfect(tmp_path, cfg, name, 3)
    for task in ("bbox", "segm"):
        assert [metrics[task][key] for key in ("AP", "AP-cell", "AP-debris")] == pytest.approx([100, 100, 100])
        assert np.isnan(metrics[task]["AP-egg"])  # each under its own name: there is none to find


@pytest.mark.parametrize("allowed", [100, 200])
def test_as_many_objects_count_as_the_key_says(tmp_path: Path, allowed: int) -> None:
    cfg, name = config(tmp_path, 150, "TEST.DETECTIONS_PER_IMAGE", str(allowed))
    cells = perfect(tmp_path, cfg, name, 150)["segm"]["AP-cell"]
    # At 100, the recall thresholds up to 100 / 150: 67 of 101.
    assert cells == pytest.approx(100 if allowed == 200 else 100 * 67 / 101, abs=0.1)
