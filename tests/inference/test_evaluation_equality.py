"""`Predictor` and `train --eval-only` give the same boxes, scores, classes and masks, bit by bit, on real pictures."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import supervision as sv
import torch
from detectron2.modeling import build_model

import adet_iuq.modeling  # noqa: F401
from adet_iuq import Predictor
from adet_iuq.commands import predict, train
from adet_iuq.config import load_config
from helpers.data_folder import DATA
from helpers.golden import REPOSITORY

COCO = DATA / "coco_tiny/coco"
IMAGES = 6

# As small as they go. From random weights every place is an object: low thresholds let them through.
MODELS = {
    "condinst": (
        "quickstart.yaml",
        [
            "MODEL.META_ARCHITECTURE",
            "CondInst",
            "MODEL.FCOS.INFERENCE_TH_TEST",
            "0.0",
            "MODEL.FCOS.BBOX_BIAS_INIT",
            "1",
        ],
    ),
    "solov2": ("SOLOv2/R18_overfit.yaml", ["MODEL.SOLOV2.SCORE_THR", "0.0", "MODEL.SOLOV2.UPDATE_THR", "0.0"]),
    "mask2former": ("Mask2Former/R18_overfit.yaml", ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "20"]),
}


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The JSON file of some pictures of coco_tiny, of several sizes."""
    if not COCO.is_dir():
        pytest.skip("needs $ADET_IUQ_DATA/coco_tiny")
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    content = json.loads((COCO / "annotations/instances_val2017.json").read_text())
    images = sorted(content["images"], key=lambda image: (image["height"], image["width"], image["id"]))
    content["images"] = images[:: len(images) // IMAGES][:IMAGES]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    path = tmp_path / "small.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_same_to_the_last_mask(
    name: str, small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, own = MODELS[name]
    config = str(REPOSITORY / "configs" / recipe)
    weights = str(tmp_path / "weights.pth")
    options = [*own, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", weights, "SEED", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    options += [
        "DATASETS.REGISTER",
        f"[['small_{name}', '{small_set}', '{COCO / 'val2017'}']]",
        "DATALOADER.NUM_WORKERS",
        "0",
    ]
    options += ["DATASETS.TRAIN", "()", "DATASETS.TEST", f"('small_{name}',)", "TEST.DETECTIONS_PER_IMAGE", "30"]
    torch.manual_seed(1)
    cfg = load_config(config, options).cfg
    cfg.MODEL.FCOS.NUM_CLASSES = cfg.MODEL.SOLOV2.NUM_CLASSES = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 80
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    assert train.main(["--config-file", config, "--eval-only", *options]) == 0
    (file,) = (tmp_path / "out" / "inference").rglob("coco_instances_results.json")
    expected: dict[int, list[dict[str, Any]]] = {}
    for result in json.loads(file.read_text()):
        expected.setdefault(result["image_id"], []).append(result)

    predictor = Predictor(config, weights, device="cpu", opts=options, score_threshold=0.0)
    images = json.loads(small_set.read_text())["images"]
    paths = [COCO / "val2017" / image["file_name"] for image in images]
    found = predictor(paths)
    assert isinstance(found, list) and sum(map(len, found)) > 20
    for image, detections in zip(images, found, strict=True):
        same_results(detections, expected[image["id"]], predictor.category_ids)

    # And the command writes the same.
    monkeypatch.setattr(sys, "argv", ["predict"])
    words = [
        *map(str, paths),
        "--config-file",
        config,
        "--weights",
        weights,
        "--device",
        "cpu",
        "--score-threshold",
        "0",
    ]
    assert predict.main([*words, "--output", str(tmp_path / "pictures"), "--opts", *options]) == 0
    written = json.loads((tmp_path / "pictures" / "predictions.json").read_text())["annotations"]
    flat = [result for image in images for result in expected[image["id"]]]
    for key in ("category_id", "segmentation", "score", "bbox"):
        assert [one[key] for one in written] == [one[key] for one in flat]


def same_results(detections: sv.Detections, expected: list[dict[str, Any]], category_ids: dict[int, int]) -> None:
    assert detections.class_id is not None and detections.confidence is not None and detections.mask is not None
    assert [category_ids[int(label)] for label in detections.class_id] == [one["category_id"] for one in expected]
    assert detections.confidence.tolist() == [one["score"] for one in expected]
    corners, ends = detections.xyxy[:, :2], detections.xyxy[:, 2:]
    assert np.concatenate([corners, ends - corners], axis=1).tolist() == [one["bbox"] for one in expected]
    for mask, one in zip(detections.mask, expected, strict=True):
        assert np.array_equal(mask, mask_util.decode(one["segmentation"]).astype(bool))
