"""LVIS's metrics on shapes scenes in LVIS's format, where the right answer is known."""

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from adet_iuq.config import get_cfg
from adet_iuq.config.num_classes import all_num_classes
from adet_iuq.data import fill_class_counts, load_dataset
from adet_iuq.evaluation import build_evaluator
from adet_iuq.evaluation.lvis import METRICS, LVISEval, LVISEvaluator, precision_recall
from adet_iuq.evaluation.source import read_source
from adet_iuq.reporting.data_set import read_matches
from adet_iuq.reporting.pictures import worst_images
from adet_iuq.reporting.scores import image_scores
from helpers.lvis_scenes import FREQUENCIES, as_instances, lvis_content, perfect_predictions
from helpers.toy_segmenter import toy_args, train

Content = dict[str, Any]
Detections = dict[int, list[Content]]
Results = dict[str, dict[str, float]]
Measure = Callable[[Content, Detections], Results]
_numbers = itertools.count()


@pytest.fixture
def cfg(tmp_path_factory: pytest.TempPathFactory) -> CfgNode:
    config = get_cfg()
    config.DATASETS.SHAPES.ROOT = str(tmp_path_factory.getbasetemp() / "lvis_scenes")
    config.DATASETS.SHAPES.SIZE, config.DATASETS.SHAPES.NUM_VAL, config.DATASETS.SHAPES.NUM_TRAIN = 64, 12, 12
    config.MODEL.MASK_ON = True
    return config


@pytest.fixture
def content(cfg: CfgNode) -> Content:
    return lvis_content(cfg, "val")[0]


@pytest.fixture
def measure(cfg: CfgNode, tmp_path: Path) -> Measure:
    """Registers a content and measures detections with the evaluator that the data set gets."""

    def _measure(content: Content, detections: Detections) -> Results:
        name = register(cfg, content, tmp_path)
        evaluator = build_evaluator(cfg, name, str(tmp_path / "results"))
        assert isinstance(evaluator, LVISEvaluator)
        evaluator.reset()
        for image in content["images"]:
            size = (image["height"], image["width"])
            evaluator.process([{"image_id": image["id"]}], [{"instances": as_instances(detections[image["id"]], size)}])
        return evaluator.evaluate()

    return _measure


def register(cfg: CfgNode, content: Content, folder: Path) -> str:
    """Writes and names a data set; its classes become the config's."""
    name = f"lvis_scenes_{next(_numbers)}"
    (folder / f"{name}.json").write_text(json.dumps(content))
    cfg.DATASETS.REGISTER = [[name, str(folder / f"{name}.json"), cfg.DATASETS.SHAPES.ROOT + "/shapes"]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    fill_class_counts(cfg)
    return name


def first_image(content: Content, wanted: Callable[[Content, set[int]], bool]) -> Content:
    """The first image for which `wanted(image, ids of its classes)` holds."""
    for image in content["images"]:
        shown = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        if wanted(image, shown):
            return image
    raise AssertionError("the scenes do not hold such an image")


def false_alarm(category: int) -> Content:
    """A detection in a corner, surer than all others."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[:5, :7] = True
    return {"box": [0.0, 0.0, 7.0, 5.0], "mask": mask, "label": category - 1, "score": 0.99}


def assert_all(results: Results, expected: dict[str, float]) -> None:
    assert set(results) == {"bbox", "segm"}
    for metrics in results.values():
        assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_perfect_predictions_give_100(content: Content, measure: Measure, tmp_path: Path) -> None:
    results = measure(content, perfect_predictions(content))
    assert_all(results, dict.fromkeys(("AP", "AP50", "AP75", "APr", "APc", "APf"), 100.0))
    assert set(results["segm"]) == set(METRICS)
    assert math.isnan(results["segm"]["APl"])  # no object is that large
    written = json.loads((tmp_path / "results/lvis_instances_results.json").read_text())
    assert len(written) == len(content["annotations"]) and {one["category_id"] for one in written} == set(range(1, 6))


@pytest.mark.parametrize("frequency", "rcf")
def test_missing_predictions_lower_the_ap_of_their_group(content: Content, measure: Measure, frequency: str) -> None:
    detections = {
        image: [d for d in found if FREQUENCIES[d["label"]] != frequency]
        for image, found in perfect_predictions(content).items()
    }
    share = FREQUENCIES.count(frequency) / len(FREQUENCIES)
    expected = {f"AP{group}": 0.0 if group == frequency else 100.0 for group in "rcf"}
    assert_all(measure(content, detections), {"AP": 100 * (1 - share), **expected})


def test_false_alarms_count_where_the_class_is_labelled(content: Content, measure: Measure) -> None:
    rare = 4
    objects = sum(a["category_id"] == rare for a in content["annotations"])
    negative = first_image(content, lambda image, shown: rare in image["neg_category_ids"])
    present = first_image(content, lambda image, shown: rare in shown)
    for image in (negative, present):
        detections = perfect_predictions(content)
        detections[image["id"]].append(false_alarm(rare))
        # One wrong detection before all right ones: the best precision at every recall is n / (n + 1).
        expected = 100 * objects / (objects + 1)
        assert_all(measure(content, detections), {"APr": expected, "APc": 100.0, "APf": 100.0})


def test_false_alarms_of_unlabelled_classes_are_ignored(content: Content, measure: Measure) -> None:
    rare = 4
    image = first_image(content, lambda image, shown: rare not in shown and rare not in image["neg_category_ids"])
    detections = perfect_predictions(content)
    detections[image["id"]].append(false_alarm(rare))
    assert_all(measure(content, detections), {"AP": 100.0, "APr": 100.0})


def test_false_alarms_of_classes_not_annotated_in_full_are_ignored(content: Content, measure: Measure) -> None:
    rare = 4
    image = first_image(content, lambda image, shown: rare in shown)
    image["not_exhaustive_category_ids"] = [rare]
    detections = perfect_predictions(content)
    detections[image["id"]].append(false_alarm(rare))
    assert_all(measure(content, detections), {"AP": 100.0, "APr": 100.0})
    detections = {i: [d for d in found if d["label"] != rare - 1] for i, found in detections.items()}
    assert_all(measure(content, detections), {"APr": 0.0})  # what is annotated must be found all the same


def test_300_detections_an_image(content: Content, measure: Measure) -> None:
    image = first_image(content, lambda image, shown: 4 in shown)
    category = next(c for c in range(1, 6) if c not in image["neg_category_ids"] and c != 4)
    detections = perfect_predictions(content)
    own = len(detections[image["id"]])
    for extra, complete in ((300 - own, True), (300, False)):
        flooded = dict(detections)
        flooded[image["id"]] = [false_alarm(category)] * extra + detections[image["id"]]
        results = measure(content, flooded)
        assert (results["segm"]["APr"] == pytest.approx(100.0)) == complete


def test_without_predictions_and_without_annotations(content: Content, measure: Measure, tmp_path: Path) -> None:
    empty: Detections = {image["id"]: [] for image in content["images"]}
    assert all(math.isnan(value) for metrics in measure(content, empty).values() for value in metrics.values())
    detections = perfect_predictions(content)
    assert measure({**content, "annotations": []}, detections) == {}
    assert len(json.loads((tmp_path / "results/lvis_instances_results.json").read_text())) > 10


def test_groups_without_classes_are_nan(content: Content, measure: Measure) -> None:
    for category in content["categories"]:
        category["frequency"] = "f"
    results = measure(content, perfect_predictions(content))
    assert results["segm"]["APf"] == pytest.approx(100.0) and math.isnan(results["segm"]["APr"])


def test_pairs_without_anything_change_nothing(content: Content, tmp_path: Path) -> None:
    """The obvious twin: the package's own loop over all pairs of an image and a class."""
    lvis = pytest.importorskip("lvis")
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    found = [
        {"image_id": image, "category_id": 1 + one["label"], "score": one["score"], "bbox": [x, y, x1 - x, y1 - y]}
        for image, detections in perfect_predictions(content).items()
        for one in [*detections[1:], false_alarm(3)]
        for x, y, x1, y1 in [one["box"]]
    ]
    ours, plain = (
        kind(truth, lvis.LVISResults(truth, copy.deepcopy(found)), "bbox")
        for kind, truth in ((LVISEval, lvis.LVIS(str(file))), (lvis.LVISEval, lvis.LVIS(str(file))))
    )
    ours.evaluate()
    plain.evaluate()
    pairs: Any = plain.eval_imgs
    judged: list[Content] = [one for one in pairs if one is not None]
    assert len(judged) < len(pairs)
    of_group: dict[tuple[int, int], list[Content]] = {}
    for one in judged:
        group = (one["category_id"], ours.params.area_rng.index(one["area_rng"]))
        of_group.setdefault(group, []).append(one)
    assert ours.eval_imgs.keys() == of_group.keys()
    for group, expected in of_group.items():
        np.testing.assert_equal(ours.eval_imgs[group], expected)


def plain_precision_recall(
    judged: list[Content], recall_thresholds: list[float]
) -> tuple[list[list[float]], list[float]]:
    """The definition, number by number."""
    objects = sum(not ignored for one in judged for ignored in one["gt_ignore"])
    precision, reached = [], []
    for threshold in range(len(judged[0]["dt_matches"])):
        found: list[tuple[float, float, bool]] = []
        for one in judged:
            found += zip(one["dt_scores"], one["dt_matches"][threshold], one["dt_ignore"][threshold], strict=True)
        points = []
        hits = total = 0
        for _, match, ignored in sorted(found, key=lambda f: -f[0]):
            hits, total = hits + (match > 0 and not ignored), total + (not ignored)
            points.append((hits / objects, hits / total if total else 0.0))
        reached.append(points[-1][0] if points else 0.0)
        precision.append([max((p for r, p in points if r >= wanted), default=0.0) for wanted in recall_thresholds])
    return precision, reached


def test_curves_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    thresholds = np.linspace(0, 1, 11)
    for images in range(1, 6):
        judged = []
        for _ in range(images):
            objects, detections = rng.integers(0, 5), rng.integers(0, 7)
            judged.append(
                {
                    "gt_ignore": rng.integers(0, 2, objects),
                    "dt_scores": rng.random(detections).tolist(),
                    "dt_matches": rng.integers(0, 2, (3, detections)) * 7.0,
                    "dt_ignore": rng.random((3, detections)) < 0.3,
                }
            )
        judged[0]["gt_ignore"] = np.array([0, 0, 1])
        precision, reached = precision_recall(judged, thresholds) or ([], [])
        expected = plain_precision_recall(judged, thresholds.tolist())
        np.testing.assert_allclose(precision, expected[0], rtol=1e-12)
        np.testing.assert_allclose(reached, expected[1], rtol=1e-12)
    assert precision_recall([{**judged[0], "gt_ignore": np.ones(2)}], thresholds) is None


def test_registration(content: Content, cfg: CfgNode, tmp_path: Path) -> None:
    name = register(cfg, content, tmp_path)
    assert MetadataCatalog.get(name).evaluator_type == "lvis"
    assert cfg.MODEL.FCOS.NUM_CLASSES == 5
    assert all(Path(record["file_name"]).exists() for record in load_dataset(name))
    del content["images"][0]["neg_category_ids"]
    assert MetadataCatalog.get(register(cfg, content, tmp_path)).evaluator_type == "coco"


def test_lvis_v1_has_1203_classes() -> None:
    assert "lvis_v1_train" in DatasetCatalog.list()
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("lvis_v1_train",), ("lvis_v1_val",)
    fill_class_counts(cfg)
    assert all_num_classes(cfg) == {1203}


def test_training_run(content: Content, cfg: CfgNode, tmp_path: Path) -> None:
    name = register(cfg, content, tmp_path)
    args = toy_args(
        tmp_path / "run",
        DATASETS__REGISTER=cfg.DATASETS.REGISTER,
        DATASETS__TRAIN=f"('{name}',)",
        DATASETS__TEST=f"('{name}',)",
        DATALOADER__SAMPLER_TRAIN="RepeatFactorTrainingSampler",
        DATALOADER__REPEAT_THRESHOLD=0.5,
        SOLVER__MAX_ITER=3,
    )
    results = train(args)
    assert set(results["segm"]) == set(METRICS) == set(results["bbox"])
    assert 0 <= results["segm"]["APf"] < 50 and results["segm"]["APr"] == 0
    saved = json.loads((tmp_path / "run/results.json").read_text())
    assert saved[name]["segm"]["APr"] == 0


def test_a_report_finds_predictions_ground_truth_and_images(measure: Measure, content: Content, tmp_path: Path) -> None:
    """All but one object are found, whose image is named by its URL."""
    detections = perfect_predictions(content)
    poor = next(image for image, found in detections.items() if found)
    detections[poor].pop()
    measure(content, detections)
    source = read_source(tmp_path / "results")
    assert (source.rules, source.task, source.max_detections) == ("lvis", "segm", 300)
    matches = read_matches(tmp_path / "results", source)
    assert matches is not None and matches.hit.all() and matches.hit.sum() == matches.object_counted.sum() - 1
    (worst,) = worst_images(
        matches, image_scores(matches, 0.0), 0.0, source.image_root, deep_images="dtype", most=16, most_bytes=10**6
    )
    assert not worst.problem and (worst.wrong, worst.missed) == (0, 1) and len(worst.pictures) == 2
