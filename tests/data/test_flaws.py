"""Whatever the checker accepts trains, evaluates, and gives perfect predictions AP 100; what it refuses it names.

Every flaw of helpers/flaws.py alone, and combinations of them that hypothesis draws from a fixed seed.
"""

import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adet_iuq.config import get_cfg
from adet_iuq.data import build_test_loader, build_train_loader, check_coco_json, ensure_datasets_sound, load_dataset
from adet_iuq.data.loading.mapper import transformed_mask
from adet_iuq.errors import UserError
from adet_iuq.evaluation import build_evaluator
from adet_iuq.modeling import Segmenter
from helpers.flaws import FLAWS
from helpers.scenes import small_model
from helpers.sound_set import DataSet, sound_set

_numbers = itertools.count()


@pytest.fixture(scope="module")
def model() -> Segmenter:
    found: Segmenter = small_model(
        "CondInst/R50_1x.yaml",
        "MODEL.RESNETS.DEPTH",
        "18",
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        "64",
        "MODEL.FCOS.NUM_CLASSES",
        "12",
    )
    return found.train()


def config(json_file: Path, folder: Path) -> CfgNode:
    cfg = get_cfg()
    name = f"flawed_{next(_numbers)}"
    cfg.DATASETS.REGISTER = [[name, str(json_file), str(folder)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = 96
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 3
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    cfg.MODEL.MASK_ON = True
    return cfg


def verdict(data: DataSet, folder: Path, model: Segmenter | None) -> str:
    """Writes a data set and uses it; returns the words of its refusal, or nothing: it was used and all went well.

    With a model a step of training is made.
    """
    json_file = data.write(folder)
    cfg = config(json_file, folder)
    report = check_coco_json(str(json_file), str(folder), training=True)
    for problem in report.problems.values():
        assert all(names_a_place(example, json_file) for example in problem.examples), problem.text()
    try:
        ensure_datasets_sound(cfg)
    except UserError as error:
        assert report.fatal, f"refused, but not by the checker: {error}"
        return str(error)
    assert not report.fatal, report.text()
    batch = next(iter(build_train_loader(cfg)))
    if model is not None:
        sum(model(batch).values()).backward()  # type: ignore[union-attr]
    found = load_dataset(cfg.DATASETS.TRAIN[0])
    assert sum(not a["iscrowd"] for record in found for a in record["annotations"]) == report.usable
    results = perfect_results(cfg, folder, found)
    assert results.keys() == {"bbox", "segm"}
    for task, metrics in results.items():
        values = {name: value for name, value in metrics.items() if not math.isnan(value)}
        assert "AP" in values and all(value == pytest.approx(100) for value in values.values()), (task, values)
    return ""


def names_a_place(example: str, json_file: Path) -> bool:
    """Whether a finding says what it is about: a file, an annotation, a category, or the entry itself."""
    places = ("annotation ", "category ", "id ", ".png", "{'", "'", str(json_file))
    return any(place in example for place in places)


def perfect_results(cfg: CfgNode, folder: Path, records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What the project's evaluator says where the images, as they are read, come with the annotations' own masks."""
    evaluator = build_evaluator(cfg, cfg.DATASETS.TEST[0], str(folder / "output"))
    evaluator.reset()
    for record, (sample,) in zip(records, build_test_loader(cfg, cfg.DATASETS.TEST[0]), strict=True):
        size = (sample["height"], sample["width"])
        kept = [a for a in record["annotations"] if not a["iscrowd"]]
        masks = [transformed_mask(a["segmentation"], T.TransformList([]), sample, size) for a in kept]
        assert all(mask is not None and mask.any() for mask in masks)
        instances = Instances(size)
        stacked = np.stack(masks).astype(bool) if masks else np.zeros((0, *size), dtype=bool)  # type: ignore[arg-type]
        instances.pred_masks = torch.from_numpy(stacked)
        instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
        instances.scores = torch.full((len(kept),), 0.9)
        instances.pred_classes = torch.tensor([a["category_id"] for a in kept], dtype=torch.int64)
        evaluator.process([sample], [{"instances": instances}])
    results: dict[str, dict[str, float]] = evaluator.evaluate()
    return results


def test_the_sound_set_is_used(tmp_path: Path, model: Segmenter) -> None:
    assert verdict(sound_set(), tmp_path, model) == ""


# All of them also come in combinations.
RARE = ("empty", "true", "an object", "infinite", "a fraction", "large", "not a number")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith(RARE) else []) for name in FLAWS]
)
def test_a_flaw_alone(name: str, tmp_path: Path, model: Segmenter) -> None:
    data = sound_set()
    FLAWS[name](data, 0)
    verdict(data, tmp_path, model if len(name) % 8 == 0 else None)


@pytest.mark.parametrize("name", ["file cut off", "polygon without parts", "image missing", "size wrong"])
def test_a_refusal_names_the_place(name: str, tmp_path: Path) -> None:
    """The property could hold in vain if everything, or nothing, were refused."""
    data = sound_set()
    FLAWS[name](data, 1)
    words = verdict(data, tmp_path, None)
    places = {
        "file cut off": str(tmp_path / "data.json"),
        "polygon without parts": "annotation 2 of 7.png",
        "image missing": "8.png",
        "size wrong": "8.png",
    }
    assert places[name] in words and "Traceback" not in words


Struck = st.lists(st.tuples(st.sampled_from(sorted(FLAWS)), st.integers(0, 5)), min_size=2, max_size=6)


def combined(struck: list[tuple[str, int]], model: Segmenter | None) -> None:
    data = sound_set()
    for name, pick in struck:
        FLAWS[name](data, pick)
    with tempfile.TemporaryDirectory() as folder:
        verdict(data, Path(folder), model)


BOUNDED: dict[str, Any] = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=40, **BOUNDED)
@given(Struck)
def test_flaws_together(model: Segmenter, struck: list[tuple[str, int]]) -> None:
    combined(struck, None)


@pytest.mark.slow
@settings(max_examples=1000, **BOUNDED)
@given(Struck)
def test_many_more_flaws_together(model: Segmenter, struck: list[tuple[str, int]]) -> None:
    combined(struck, model)
