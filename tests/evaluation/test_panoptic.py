"""Panoptic quality on maps whose answer is known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from PIL import Image

from adet_iuq.config import get_cfg
from adet_iuq.data import load_dataset, register_datasets
from adet_iuq.data.annotations.panoptic import id_colours, panoptic_metadata, segment_ids
from adet_iuq.errors import UserError
from adet_iuq.evaluation import build_evaluator
from adet_iuq.evaluation.panoptic import Counts, PanopticEvaluator, Segments, count_matches

THING, STUFF = 0, 1


def bands(*parts: tuple[int, int]) -> np.ndarray:
    """A map of one row: (id, number of pixels) from left to right."""
    return np.concatenate([np.full(number, i) for i, number in parts])[None]


def only(counts: dict[int, Counts]) -> dict[int, tuple[int, int, int]]:
    return {label: (c.matched, c.surplus, c.missed) for label, c in counts.items() if c != Counts()}


def test_the_same_map_is_perfect() -> None:
    truth = Segments(bands((1, 5), (2, 3), (0, 2)), {1: THING, 2: STUFF})
    counts = count_matches(truth, Segments(bands((8, 5), (9, 3), (0, 2)), {8: THING, 9: STUFF}))
    assert only(counts) == {THING: (1, 0, 0), STUFF: (1, 0, 0)}
    assert counts[THING].qualities() == counts[STUFF].qualities() == (1.0, 1.0, 1.0)


def test_known_iou_and_a_surplus_segment() -> None:
    truth = Segments(bands((1, 8), (2, 12)), {1: THING, 2: STUFF})
    predicted = Segments(bands((5, 6), (6, 2), (7, 12)), {5: THING, 6: THING, 7: STUFF})
    counts = count_matches(truth, predicted)
    assert only(counts) == {THING: (1, 1, 0), STUFF: (1, 0, 0)}
    assert counts[THING].qualities() == pytest.approx((0.75 / 1.5, 0.75, 1 / 1.5))


def test_an_iou_of_one_half_is_no_match() -> None:
    truth = Segments(bands((1, 8), (0, 8)), {1: THING})
    counts = count_matches(truth, Segments(bands((5, 4), (0, 12)), {5: THING}))
    assert only(counts) == {THING: (0, 1, 1)} and counts[THING].qualities() == (0.0, 0.0, 0.0)


def test_another_class_is_no_match() -> None:
    counts = count_matches(Segments(bands((1, 8)), {1: THING}), Segments(bands((1, 8)), {1: STUFF}))
    assert only(counts) == {THING: (0, 0, 1), STUFF: (0, 1, 0)}


def test_unlabelled_pixels_do_not_count() -> None:
    truth = Segments(bands((1, 6), (0, 14)), {1: THING})
    # 6 of its 11 pixels are the thing; the other 5 are unlabelled and leave the union: IoU 1. The second one is ignored.
    counts = count_matches(truth, Segments(bands((5, 11), (6, 9)), {5: THING, 6: THING}))
    assert only(counts) == {THING: (1, 0, 0)} and counts[THING].iou == 1.0


def test_crowds_are_neither_missed_nor_a_surplus_for_their_class() -> None:
    truth = Segments(bands((1, 10), (2, 10)), {1: THING, 2: STUFF}, crowds={1})
    assert only(count_matches(truth, Segments(bands((5, 10), (6, 10)), {5: THING, 6: STUFF}))) == {STUFF: (1, 0, 0)}
    counts = count_matches(truth, Segments(bands((5, 10), (6, 10)), {5: STUFF, 6: THING}))
    assert only(counts) == {STUFF: (0, 1, 1), THING: (0, 1, 0)}


def test_ids_may_be_large_and_far_apart() -> None:
    a, b, c, d = 2**24 - 1, 256, 2**31 - 1, 7
    truth = Segments(bands((a, 8), (b, 12)), {a: THING, b: STUFF})
    counts = count_matches(truth, Segments(bands((c, 6), (d, 14)), {c: THING, d: STUFF}))
    assert only(counts) == {THING: (1, 0, 0), STUFF: (1, 0, 0)}
    assert (counts[THING].iou, counts[STUFF].iou) == (6 / 8, 12 / 14)


def test_classes_that_do_not_occur_have_no_quality() -> None:
    assert all(math.isnan(value) for value in Counts().qualities())


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """One image: a cat of 12 pixels, a sky of 12, four unlabelled ones."""
    categories = [{"id": 4, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
    segments = [{"id": 300, "category_id": 4, "iscrowd": 0}, {"id": 70000, "category_id": 2, "iscrowd": 0}]
    Image.fromarray(id_colours(bands((300, 12), (70000, 12), (0, 4)))).save(tmp_path / "6.png")
    annotations = [{"image_id": 6, "file_name": "6.png", "segments_info": segments}]
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps({"images": [], "annotations": annotations, "categories": categories}))
    name = f"panoptic_{tmp_path.name}"
    files = {"panoptic_json": str(path), "panoptic_root": str(tmp_path), "evaluator_type": "coco_panoptic_seg"}
    MetadataCatalog.get(name).set(**panoptic_metadata(categories), **files)
    return name


def output(ids: np.ndarray, classes: dict[int, int]) -> list[dict[str, Any]]:
    segments = [{"id": i, "category_id": label, "isthing": label == THING} for i, label in classes.items()]
    return [{"panoptic_seg": (torch.from_numpy(ids).int(), segments)}]


def test_evaluator_reads_the_maps_and_averages_over_classes(dataset: str) -> None:
    evaluator = PanopticEvaluator(dataset)
    evaluator.process([{"image_id": 6}], output(bands((1, 9), (0, 3), (2, 12), (0, 4)), {1: THING, 2: STUFF}))
    result = evaluator.evaluate()["panoptic_seg"]
    assert result["PQ_th"] == result["PQ-cat"] == pytest.approx(75) and result["PQ_st"] == pytest.approx(100)
    assert (result["PQ"], result["SQ"], result["RQ"]) == pytest.approx((87.5, 87.5, 100))
    evaluator.process([{"image_id": 6}], output(bands((0, 28)), {}))  # the same image again, with nothing found
    result = evaluator.evaluate()["panoptic_seg"]
    assert result["PQ_th"] == pytest.approx(50) and result["RQ_st"] == pytest.approx(100 / 1.5)
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_the_largest_ids_give_the_same_result(dataset: str) -> None:
    first, last = 2**30, 2**31 - 1
    evaluator = PanopticEvaluator(dataset)
    found = output(bands((first, 9), (0, 3), (last, 12), (0, 4)), {first: THING, last: STUFF})
    evaluator.process([{"image_id": 6}], found)
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(87.5)


def test_outputs_without_a_panoptic_map_are_left_out(dataset: str) -> None:
    evaluator = PanopticEvaluator(dataset)
    evaluator.process([{"image_id": 6}], [{"instances": None}])
    assert evaluator.evaluate() == {}


def test_maps_that_do_not_fit_or_are_gone(dataset: str, tmp_path: Path) -> None:
    evaluator = PanopticEvaluator(dataset)
    with pytest.raises(UserError, match=r"6\.png is \(28, 1\) pixels, the prediction \(27, 1\)"):
        evaluator.process([{"image_id": 6}], output(bands((1, 27)), {1: THING}))
    (tmp_path / "6.png").unlink()
    with pytest.raises(UserError, match=r"Panoptic map .*6\.png does not exist"):
        evaluator.process([{"image_id": 6}], output(bands((1, 28)), {1: THING}))


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    cfg = get_cfg()
    cfg.DATASETS.TEST, cfg.MODEL.MASK_ON = ("shapes_panoptic_val",), True
    cfg.DATASETS.SHAPES.SIZE, cfg.DATASETS.SHAPES.NUM_VAL = 96, 3
    register_datasets(cfg)
    return cfg


def test_the_truth_of_the_shapes_has_quality_100(shapes: CfgNode, tmp_path: Path) -> None:
    evaluator = build_evaluator(shapes, "shapes_panoptic_val", str(tmp_path / "inference"))
    assert isinstance(evaluator, DatasetEvaluators)
    evaluator.reset()
    for record in load_dataset("shapes_panoptic_val"):
        ids = segment_ids(np.array(Image.open(record["pan_seg_file_name"])))
        evaluator.process([record], [{"panoptic_seg": (torch.from_numpy(ids), record["segments_info"])}])
    result = evaluator.evaluate()
    assert result["panoptic_seg"]["PQ"] == result["panoptic_seg"]["PQ_th"] == 100.0
    assert "segm" not in result  # no instances were given


def test_masks_are_measured_where_the_things_are_listed_alone(tmp_path: Path, dataset: str, shapes: CfgNode) -> None:
    def kinds(name: str) -> list[str]:
        built = build_evaluator(shapes, name, str(tmp_path))
        assert isinstance(built, DatasetEvaluators)
        return [type(one).__name__ for one in built._evaluators]

    assert kinds("shapes_panoptic_val") == ["PanopticEvaluator", "SemanticEvaluator", "InstanceEvaluator"]
    assert kinds(dataset) == ["PanopticEvaluator", "SemanticEvaluator"]  # no instance annotations
    shapes.MODEL.MASK_ON = False
    assert kinds("shapes_panoptic_val") == ["PanopticEvaluator", "SemanticEvaluator"]
