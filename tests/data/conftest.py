"""Small data sets on disk for the tests of adet_iuq.data."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import CfgNode
from PIL import Image

from adet_iuq.config import get_cfg

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache folder of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ADET_IUQ_CACHE", str(folder))
    return folder


@pytest.fixture
def cfg() -> CfgNode:
    """Tiny scenes, no workers, no resizing."""
    config = get_cfg()
    config.DATASETS.TRAIN, config.DATASETS.TEST = ("shapes_train",), ("shapes_val",)
    config.DATASETS.SHAPES.SIZE, config.DATASETS.SHAPES.NUM_TRAIN, config.DATASETS.SHAPES.NUM_VAL = 96, 10, 3
    config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MIN_SIZE_TEST = (96, 128), 96
    config.DATALOADER.NUM_WORKERS = 0
    return config


def box_polygon(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """A rectangle as a polygon segmentation."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def box_rle(x: int, y: int, width: int, height: int, image_height: int, image_width: int) -> dict[str, Any]:
    """A rectangle as a compressed RLE that JSON can hold."""
    mask = np.zeros((image_height, image_width), dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


@pytest.fixture
def content() -> dict[str, Any]:
    """A sound data set: three images of 40 x 30, category ids with a gap, a polygon, an RLE and a crowd."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 30, "width": 40} for i in (7, 8, 9)]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 6, 20, 10], "segmentation": box_polygon(5, 6, 20, 10)},
        {"id": 2, "image_id": 7, "category_id": 9, "bbox": [2, 3, 10, 6], "segmentation": box_rle(2, 3, 10, 6, 30, 40)},
        {"id": 3, "image_id": 8, "category_id": 3, "bbox": [0, 0, 8, 8], "segmentation": box_polygon(0, 0, 8, 8)},
        {"id": 4, "image_id": 8, "category_id": 9, "bbox": [1, 1, 9, 9], "segmentation": box_rle(1, 1, 9, 9, 30, 40)},
    ]
    for annotation in annotations:
        box = annotation["bbox"]
        assert isinstance(box, list)
        annotation.update(area=box[2] * box[3], iscrowd=int(annotation["id"] == 4))
    categories = [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


Writer = Callable[..., tuple[str, str, str]]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a data set; returns an entry for DATASETS.REGISTER with a fresh name."""

    def _write(content: dict[str, Any], images: bool = True) -> tuple[str, str, str]:
        number = next(_numbers)
        root = tmp_path / f"images{number}"
        root.mkdir()
        if images:
            for entry in content["images"]:
                pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / entry["file_name"])
        path = tmp_path / f"data{number}.json"
        path.write_text(json.dumps(content))
        return f"own_{number}", str(path), str(root)

    return _write


@pytest.fixture
def registered(cfg: CfgNode, content: dict[str, Any], write: Writer) -> CfgNode:
    """A config that trains and evaluates on `content`."""
    entry = write(content)
    cfg.DATASETS.REGISTER = [list(entry)]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (entry[0],)
    cfg.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = 30
    return cfg
