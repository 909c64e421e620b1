"""Every backend gives pycocotools' twelve numbers, on scenes that are hard to get right and on real nuclei."""

import copy
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from adet_iuq.config import get_cfg
from adet_iuq.data import register_datasets
from adet_iuq.errors import UserError
from adet_iuq.evaluation import build_evaluator
from adet_iuq.evaluation.backends import BACKENDS, compare, find_backend, fitting
from adet_iuq.evaluation.coco import InstanceEvaluator
from helpers.data_folder import DATA

TASKS = ("bbox", "segm")
NUCLEI = DATA / "nuclei" / "val.json"
FAST = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(one.module) is None, reason=f"needs {name}"))
    for name, one in BACKENDS.items()
    if name != "pycocotools"
]


def crowded_scenes(seed: int = 0) -> dict[str, Any]:
    """Images of two sizes with up to 150 overlapping objects, crowds as run lengths, an empty image, a class of nothing."""
    draws = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, count in enumerate((150, 40, 7, 0), start=1):
        height, width = (120, 160) if image % 2 else (300, 260)
        images.append({"id": image, "file_name": f"{image}.png", "height": height, "width": width})
        for number in range(count):
            x, y = draws.integers(0, width - 12), draws.integers(0, height - 12)
            w, h = draws.integers(2, 12 if number % 3 else 180, 2)
            w, h = min(w, width - x), min(h, height - y)
            corners = [[float(v) for v in (x, y, x + w, y, x + w, y + 0.7 * h, x + 0.4 * w, y + h)]]
            crowd = number % 17 == 5
            mask = mask_util.merge(mask_util.frPyObjects(corners, height, width))
            annotation = {
                **{"id": len(annotations) + 1, "image_id": image, "category_id": int(draws.choice([3, 9]))},
                **{
                    "iscrowd": int(crowd),
                    "area": float(mask_util.area(mask)),
                    "bbox": [float(v) for v in (x, y, w, h)],
                },
                "segmentation": {"size": [height, width], "counts": counts(mask)} if crowd else corners,
            }
            annotations.append(annotation)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": identity, "name": name} for identity, name in ((9, "nine"), (3, "three"), (5, "none"))],
    }


def counts(rle: dict[str, Any]) -> list[int]:
    """Run lengths as plain numbers, as COCO has them for crowds."""
    flat = mask_util.decode(rle).flatten(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [-1]]))) if flat.any() else np.array([len(flat)])
    return [int(one) for one in np.diff(np.concatenate([[0], edges]))]


def moved(content: dict[str, Any], seed: int = 1) -> list[dict[str, Any]]:
    """Detections: objects moved by some pixels, some twice, some of another class, with many equal scores."""
    draws = np.random.default_rng(seed)
    truth, results = COCO(), []
    truth.dataset = copy.deepcopy(content)
    truth.createIndex()
    for annotation in truth.dataset["annotations"]:
        mask = truth.annToMask(annotation)
        for _ in range(1 + (draws.random() < 0.3)):
            shifted = np.roll(mask, draws.integers(-2, 3, 2), axis=(0, 1))
            rle = mask_util.encode(np.asfortranarray(shifted))
            category = annotation["category_id"] if draws.random() < 0.9 else content["categories"][0]["id"]
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "score": round(float(draws.random()), 1),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                }
            )
    return results


def loaded(content: dict[str, Any]) -> COCO:
    """The content as pycocotools has it after reading it from a file."""
    truth = COCO()
    truth.dataset = json.loads(json.dumps(content))
    truth.createIndex()
    return truth


def same_numbers(content: dict[str, Any], results: list[dict[str, Any]], name: str, counted: int) -> None:
    for task in TASKS:
        expected = compare(BACKENDS["pycocotools"], loaded(content), results, task, counted)
        found = compare(find_backend(name), loaded(content), results, task, counted)
        assert 0.05 < expected.stats[0] < 0.95 and len(expected.stats) == 12
        np.testing.assert_allclose(np.asarray(found.stats), expected.stats, rtol=0, atol=1e-12)
        # AP of every class is computed from it.
        np.testing.assert_allclose(found.eval["precision"], expected.eval["precision"], rtol=0, atol=1e-12)
        assert list(found.params.catIds) == list(expected.params.catIds)


@pytest.mark.parametrize("counted", [100, 400])
@pytest.mark.parametrize("name", FAST)
def test_the_same_numbers_on_crowded_scenes(name: str, counted: int) -> None:
    content = crowded_scenes()
    same_numbers(content, moved(content), name, counted)


@pytest.mark.skipif(not NUCLEI.is_file(), reason="needs $ADET_IUQ_DATA")
@pytest.mark.parametrize("name", FAST)
def test_the_same_numbers_on_nuclei(name: str) -> None:
    content = json.loads(NUCLEI.read_text())
    same_numbers(content, moved(content), name, 100)


def test_the_default_is_pycocotools_itself() -> None:
    """The obvious twin: pycocotools' own three calls."""
    content = crowded_scenes()
    results = moved(content)
    before = copy.deepcopy(results)
    for task in TASKS:
        truth = loaded(content)
        kept = [{k: v for k, v in one.items() if k != "bbox" or task == "bbox"} for one in results]
        twin = COCOeval(truth, truth.loadRes(kept), task)
        twin.evaluate()
        twin.accumulate()
        twin.summarize()
        found = compare(BACKENDS["pycocotools"], loaded(content), results, task, 100)
        np.testing.assert_array_equal(found.stats, twin.stats)
    assert results == before
    assert get_cfg().TEST.EVAL_BACKEND == "pycocotools"


def test_some_images_alone() -> None:
    content = crowded_scenes()
    results = moved(content)
    alone = {**content, "images": content["images"][1:2]}
    alone["annotations"] = [one for one in content["annotations"] if one["image_id"] == 2]
    part = [one for one in results if one["image_id"] == 2]
    expected = compare(BACKENDS["pycocotools"], loaded(alone), part, "segm", 100)
    found = compare(BACKENDS["pycocotools"], loaded(content), results, "segm", 100, image_ids=[2])
    np.testing.assert_array_equal(found.stats, expected.stats)


def test_an_unknown_backend_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'coco'; it can be pycocotools, faster-coco-eval, hotcoco"):
        find_backend("coco")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install faster-coco-eval, or leave the key out"):
        find_backend("faster-coco-eval")


def test_the_key_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    path, cfg = tmp_path / "truth.json", get_cfg()
    path.write_text(json.dumps(crowded_scenes()))
    name = f"backends_{tmp_path.name}"
    cfg.DATASETS.REGISTER = [[name, str(path), str(tmp_path)]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (name,)
    register_datasets(cfg)
    for backend in BACKENDS:
        cfg.TEST.EVAL_BACKEND = backend
        evaluator = build_evaluator(cfg, name, str(tmp_path / "out"))
        assert isinstance(evaluator, InstanceEvaluator) and evaluator._backend is BACKENDS[backend]


@pytest.mark.parametrize("identity", ["image {}", -1, 2**63])
def test_ids_that_only_pycocotools_takes_are_left_to_it(identity: str | int, caplog: pytest.LogCaptureFixture) -> None:
    content = crowded_scenes()
    assert fitting(BACKENDS["hotcoco"], loaded(content)) is BACKENDS["hotcoco"]
    first, content["annotations"] = content["images"][0], []
    first["id"] = identity if isinstance(identity, int) else identity.format(first["id"])
    with caplog.at_level(logging.WARNING):
        assert fitting(BACKENDS["hotcoco"], loaded(content)) is BACKENDS["pycocotools"]
    assert "words, negative" in caplog.text
