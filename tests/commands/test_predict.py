"""`adet-iuq predict` and tools/visualize_results.py, with a model that finds the left half of every image."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from pycocotools.coco import COCO

import adet_iuq
from adet_iuq.commands import predict
from adet_iuq.config import load_config
from helpers.toy_segmenter import toy_options

TOOLS = Path(adet_iuq.__file__).parents[1] / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a config file and its weights."""
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    cfg = load_config(None, toy_options(tmp_path, MODEL__FCOS__NUM_CLASSES=5)).cfg
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "weights.pth")
    return ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(tmp_path / "weights.pth")]


def test_pictures_and_coco_json(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, shape in (("a.png", (40, 60, 3)), ("b.JPG", (30, 50, 3))):
        cv2.imwrite(str(folder / name), np.full(shape, 90, np.uint8))
    shutil.copy(folder / "a.png", tmp_path / "single.png")
    (folder / "notes.txt").write_text("no image")
    output = tmp_path / "out"
    patterns = [str(folder), str(tmp_path / "sing*.png")]
    assert predict.main([*patterns, *model, "--output", str(output)]) == 0

    assert len(list(output.glob("*.png"))) == 3
    coco = COCO(str(output / "predictions.json"))
    names = [Path(image["file_name"]).name for image in coco.loadImgs(coco.getImgIds())]
    assert names == ["a.png", "b.JPG", "single.png"]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [a["score"] for a in annotations] == pytest.approx([0.9] * 3)
    assert coco.annToMask(annotations[1]).sum() == 30 * 25
    # Category ids are the data set's own: those of the shapes start at 1.
    assert coco.loadCats(annotations[0]["category_id"])[0]["name"] == "disc" and annotations[0]["category_id"] == 1


def test_weights_serve_without_the_data_set(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    gone = ["DATASETS.REGISTER", "[['elsewhere', '/no/where.json', '/no']]", "DATASETS.TEST", "('elsewhere',)"]
    words = [str(tmp_path / "a.png"), *model, "--output", str(tmp_path / "out"), "--opts", *gone]
    assert predict.main(words) == 2
    assert "/no/where.json does not exist" in capsys.readouterr().err
    names = {"thing_classes": list("abcde"), "category_ids": {index: 10 + index for index in range(5)}}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    assert predict.main(words) == 0
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["categories"][0] == {"id": 10, "name": "a"} and content["annotations"][0]["category_id"] == 10


def test_unreadable_images_are_named_and_the_rest_is_done(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), np.full((40, 60, 3), 90, np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    (tmp_path / "empty.png").write_bytes(b"")
    words = [str(tmp_path / f"{name}.png") for name in ("cut", "gone", "empty", "good")]
    assert predict.main([*words, *model, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "cut.png cannot be read" in error and "gone.png does not exist" in error and "empty.png" in error
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 1


def test_images_are_read_as_in_training(model: list[str], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.full((40, 60), 30000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.tif", exif=exif)
    words = [str(tmp_path / "deep.png"), str(tmp_path / "turned.tif"), *model, "--output", str(tmp_path / "out")]
    assert predict.main(words) == 0
    images = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [(image["height"], image["width"]) for image in images] == [(40, 60), (60, 40)]
    assert predict.main([*words, "--opts", "INPUT.DEEP_IMAGES", "refuse"]) == 1
    assert predict.main([*words, "--opts", "INPUT.DEEP_IMAGES", "none"]) == 2


def test_wrong_input_ends_with_2(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nothing").mkdir()
    assert predict.main([str(tmp_path / "nothing"), *model, "--output", str(tmp_path / "out")]) == 2
    assert predict.main(["x.png", *model[:3], "gone.pth", "--output", str(tmp_path / "out")]) == 2
    assert "gone.pth does not exist" in capsys.readouterr().err


def test_predictions_beside_ground_truth(model: list[str], tmp_path: Path) -> None:
    output = tmp_path / "pictures"
    assert tool("visualize_results").main([*model, "--output", str(output), "--limit", "1"]) == 0
    (picture,) = output.glob("*.png")
    shown = cv2.imread(str(picture))
    assert shown is not None and shown.shape == (24 + 320, 2 * 320 + 8, 3)
