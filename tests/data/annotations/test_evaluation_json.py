"""The mended copy lets pycocotools find a perfect prediction perfect."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from adet_iuq.data import ensure_datasets_sound, register_datasets
from adet_iuq.data.annotations.evaluation_json import evaluation_json
from adet_iuq.errors import UserError
from adet_iuq.evaluation import build_evaluator

Content = dict[str, Any]
Writer = Callable[..., tuple[str, str, str]]


def perfect_ap(path: str) -> float:
    """AP of segmentations when the ground truth itself is predicted."""
    truth = COCO(path)
    predictions = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "segmentation": truth.annToRLE(a), "score": 0.9}
        for a in truth.dataset["annotations"]
        if not a.get("iscrowd")
    ]
    evaluator = COCOeval(truth, truth.loadRes(predictions), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return float(evaluator.stats[0])


def test_a_sound_file_is_used_itself(content: Content, write: Writer, tmp_path: Path) -> None:
    _, json_file, _ = write(content)
    assert evaluation_json(json_file, str(tmp_path)) == json_file
    assert perfect_ap(json_file) == pytest.approx(1.0)
    del content["annotations"]
    _, json_file, _ = write(content)
    assert evaluation_json(json_file, str(tmp_path)) == json_file


def drop_area(content: Content) -> None:
    for annotation in content["annotations"]:
        del annotation["area"]


def add_broken(content: Content) -> None:
    content["annotations"].append({**content["annotations"][0], "id": 50, "segmentation": [[1, 2, 3, 4]]})
    content["annotations"].append({**content["annotations"][0], "id": 51, "image_id": 1234})
    content["annotations"].append(dict(content["annotations"][0]))
    content["images"].append(dict(content["images"][0]))


@pytest.mark.parametrize(
    ("flaw", "number"),
    [
        (lambda content: content["annotations"][0].update(id=0), 4),
        (lambda content: [a.update(id=1) for a in content["annotations"]], 4),
        (lambda content: [a.pop("id") for a in content["annotations"]], 4),
        (lambda content: content["annotations"][1].pop("bbox"), 4),
        (lambda content: content["annotations"][1].update(bbox=[2, -20, 10, 6]), 4),
        (lambda content: content["annotations"][2].update(ignore=1), 4),
        (drop_area, 4),
        (add_broken, 4),
    ],
)
def test_a_flawed_file_is_mended(
    flaw: Callable[[Content], Any], number: int, content: Content, write: Writer, tmp_path: Path
) -> None:
    flaw(content)
    path = tmp_path / "flawed.json"
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    copy = evaluation_json(str(path), str(tmp_path / "inference"))
    assert Path(copy).parent == tmp_path / "inference"
    assert copy != str(path) and path.read_bytes() == before
    assert perfect_ap(copy) == pytest.approx(1.0)
    mended = json.loads(Path(copy).read_text())
    assert len(mended["annotations"]) == number and len(mended["images"]) == 3
    assert all(a["area"] > 0 for a in mended["annotations"])
    assert mended["annotations"][1]["bbox"] == [2, 3, 10, 6]
    assert evaluation_json(copy, str(tmp_path)) == copy


def evaluated_ids(evaluator: COCOEvaluator) -> list[int]:
    """Ids of the annotations that detectron2's evaluator compares with."""
    return [annotation["id"] for annotation in evaluator._coco_api.dataset["annotations"]]


def test_the_evaluator_gets_the_copy(
    registered: CfgNode, content: Content, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, json_file, _ = registered.DATASETS.REGISTER[0]
    register_datasets(registered)
    assert evaluated_ids(build_evaluator(registered, name, str(tmp_path / "out"))) == [1, 2, 3, 4]
    assert not list(tmp_path.rglob("ground_truth.json"))
    content["annotations"][0]["id"] = 0
    Path(json_file).write_text(json.dumps(content))
    for _ in range(2):  # as a training does
        register_datasets(registered)
        evaluator = build_evaluator(registered, name, str(tmp_path / "out"))
    assert evaluated_ids(evaluator) == [1, 2, 3, 4] and (tmp_path / "out/ground_truth.json").exists()
    assert evaluator._metadata.thing_classes == ["dog", "cat"]
    assert MetadataCatalog.get(name).json_file == json_file
    assert caplog.text.count("a mended copy serves") == 1


def test_the_check_comes_before_any_mending(
    registered: CfgNode, content: Content, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content["annotations"][0]["segmentation"] = []
    Path(registered.DATASETS.REGISTER[0][1]).write_text(json.dumps(content))
    with pytest.raises(UserError, match="without any part of three points"):
        ensure_datasets_sound(registered)
    assert "mended" not in caplog.text


def test_no_place_for_the_copy(content: Content, write: Writer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    content["annotations"][0]["id"] = 0
    with pytest.raises(UserError, match="OUTPUT_DIR"):
        evaluation_json(write(content)[1], str(tmp_path / "file"))
