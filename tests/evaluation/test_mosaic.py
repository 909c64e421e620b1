import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from adet_iuq.config import get_cfg
from adet_iuq.data.registration.mosaic import mosaic_config
from adet_iuq.engine.loop.evaluation import evaluate_all
from adet_iuq.evaluation import build_evaluator
from adet_iuq.evaluation.mosaic import LeakEvaluator, duplicates, mask_leaks
from adet_iuq.modeling.layers import encoded_masks
from helpers.mosaic_sets import register_with_mosaics
from helpers.toy_segmenter import BareSegmenter

TILES = [[0, 0, 10, 8], [10, 0, 20, 8], [0, 8, 10, 16], [10, 8, 20, 16]]


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    """Five images of 30 squares each, so that a mosaic has more than COCO's 100 detections an image, and one crowd."""
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in range(1, 6):
        images.append({"id": image, "file_name": f"{image}.png", "height": 50, "width": 60})
        Image.fromarray(np.full((50, 60, 3), 20 * image, dtype=np.uint8)).save(tmp_path / f"{image}.png")
        for place in range(30):
            x, y = 10 * (place % 6), 10 * (place // 6)
            polygon = [[x, y, x + 8, y, x + 8, y + 8, x, y + 8]]
            facts = {"category_id": 4 if place else 7, "iscrowd": int(place == 29), "area": 64}
            annotation = {"image_id": image, "bbox": [x, y, 8, 8], "segmentation": polygon, **facts}
            annotations.append({"id": len(annotations) + 1, **annotation})
    categories = [{"id": 4, "name": "square"}, {"id": 7, "name": "first"}]
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    content = {"images": images, "annotations": annotations, "categories": categories}
    register_with_mosaics(cfg, "crowded", tmp_path, tmp_path, content)
    return cfg


def perfect(image: dict[str, Any], annotations: list[dict[str, Any]], contiguous: dict[int, int]) -> Instances:
    """The ground truth of a mosaic as detections."""
    mine = [a for a in annotations if a["image_id"] == image["id"] and not a["iscrowd"]]
    result = Instances((image["height"], image["width"]))
    masks = [mask_util.decode(a["segmentation"]).astype(bool) for a in mine]
    result.pred_masks = torch.from_numpy(np.stack(masks))
    boxes = torch.tensor([a["bbox"] for a in mine], dtype=torch.float32)
    result.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    result.scores = torch.linspace(0.9, 0.6, len(mine))
    result.pred_classes = torch.tensor([contiguous[a["category_id"]] for a in mine])
    return result


def evaluated(cfg: CfgNode, output: Path, **change: bool) -> dict[str, Any]:
    """Results of perfect detections; with `leak`, each mask covers the whole tile to the right or left as well."""
    (name,) = mosaic_config(cfg).DATASETS.TEST
    metadata = MetadataCatalog.get(name)
    content = json.loads(Path(metadata.json_file).read_text())
    evaluator = build_evaluator(cfg, name, str(output))
    evaluator.reset()
    for image in content["images"]:
        instances = perfect(image, content["annotations"], metadata.thing_dataset_id_to_contiguous_id)
        if change.get("leak"):
            for mask, box in zip(instances.pred_masks, instances.pred_boxes.tensor, strict=True):
                left = 60 if box[0] < 60 else 0
                top = 0 if box[1] < 50 else 50
                mask[top : top + 50, left : left + 60] = True
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    results: dict[str, Any] = evaluator.evaluate()
    return results


def test_perfect_detections_get_all_points_and_leak_nothing(crowded: CfgNode, tmp_path: Path) -> None:
    """112 objects of a class a mosaic: with COCO's 100 detections an image and class they would not all count."""
    results = evaluated(crowded, tmp_path / "out")
    assert results["segm"]["AP"] == pytest.approx(100) and results["bbox"]["AP"] == pytest.approx(100)
    assert results["mosaic"] == {
        "leak_rate": 0.0, "leak_rate_area": 0.0, "duplicate_rate": 0.0, "detections": 2 * 4 * 29,
    }  # fmt: skip


def test_leaking_masks_are_told(crowded: CfgNode, tmp_path: Path) -> None:
    """8 x 8 pixels at home and 50 x 60 in another tile."""
    results = evaluated(crowded, tmp_path / "out", leak=True)
    rate = pytest.approx(100 * 3000 / 3064)
    assert results["mosaic"]["leak_rate"] == rate and results["mosaic"]["leak_rate_area"] == rate
    assert results["segm"]["AP"] == 0 and results["bbox"]["AP"] == pytest.approx(100)


def two_masks() -> tuple[torch.Tensor, torch.Tensor]:
    """24 pixels, 6 of them in the tile to the right; 4 pixels, all at home in the lower right tile."""
    masks = torch.zeros(2, 16, 20, dtype=torch.bool)
    masks[0, 2:5, 4:12] = True
    masks[1, 12:14, 15:17] = True
    return masks, torch.tensor([[4.0, 2.0, 12.0, 5.0], [15.0, 12.0, 17.0, 14.0]])


def test_leaks_by_hand() -> None:
    masks, boxes = two_masks()
    outside, area = mask_leaks(masks, boxes, TILES)
    assert (outside.tolist(), area.tolist()) == ([6, 0], [24, 4])
    boxes[0] += 4  # its centre is now in the tile to the right
    assert mask_leaks(masks, boxes, TILES)[0].tolist() == [18, 0]


def test_a_mask_without_a_box_has_its_own() -> None:
    masks, boxes = two_masks()
    assert mask_leaks(masks, torch.zeros_like(boxes), TILES)[0].tolist() == [6, 0]
    none = mask_leaks(masks[:0], boxes[:0], TILES)
    assert [len(numbers) for numbers in none] == [0, 0]


def test_run_lengths_and_pixels_leak_the_same() -> None:
    """The obvious twin: a tile's pixels, counted. 300 masks are more than pycocotools can measure at once."""
    draws = torch.Generator().manual_seed(0)
    masks = torch.rand(300, 16, 20, generator=draws) < torch.rand(300, 1, 1, generator=draws) ** 4
    boxes = torch.rand(300, 4, generator=draws) * 20
    boxes[:, 2:] += boxes[:, :2]
    outside, area = mask_leaks(encoded_masks([masks], (16, 20)), boxes, TILES)
    for number, mask in enumerate(masks):
        x, y = ((boxes[number, :2] + boxes[number, 2:]) / 2).clamp(max=torch.tensor([19.0, 15.0])).tolist()
        (home,) = [mask[y0:y1, x0:x1] for x0, y0, x1, y1 in TILES if x0 <= x < x1 and y0 <= y < y1]
        assert (int(outside[number]), int(area[number])) == (int(mask.sum() - home.sum()), int(mask.sum()))
    assert [one.tolist() for one in mask_leaks(masks, boxes, TILES)] == [outside.tolist(), area.tolist()]


def test_mosaics_are_evaluated_in_run_lengths(crowded: CfgNode, tmp_path: Path) -> None:
    """A tensor of the masks of a mosaic is sixteen times that of an image."""
    mosaics = mosaic_config(crowded)
    own = build_evaluator(mosaics, mosaics.DATASETS.TEST[0], str(tmp_path / "out"))
    model, seen = BareSegmenter(), []

    def evaluate(cfg: CfgNode, model: BareSegmenter, evaluators: list[DatasetEvaluator]) -> dict[str, Any]:
        seen.append((model.images_per_picture, model.masks_encoded, evaluators))
        return {}

    evaluate_all(evaluate, crowded, model, [DatasetEvaluator()], lambda _cfg, _name: own)
    assert seen[1] == (4, True, [own]) and not seen[0][1]


def test_rates_are_means_over_certain_detections(tmp_path: Path) -> None:
    path = tmp_path / "mosaics.json"
    path.write_text(json.dumps({"images": [{"id": 1, "tiles": TILES}]}))
    masks, boxes = two_masks()
    instances = Instances((16, 20))
    instances.pred_masks, instances.pred_boxes = torch.cat([masks, masks * False]), Boxes(torch.cat([boxes, boxes]))
    instances.scores, instances.pred_classes = torch.tensor([0.9, 0.5, 0.9, 0.9]), torch.zeros(4, dtype=torch.long)
    expected = {
        0.3: {
            "leak_rate": 100 * (6 / 24 + 0) / 2,
            "leak_rate_area": 100 * 6 / 28,
            "duplicate_rate": 0.0,
            "detections": 2,
        },
        0.6: {"leak_rate": 25.0, "leak_rate_area": 25.0, "duplicate_rate": 0.0, "detections": 1},
    }
    for score, rates in expected.items():
        evaluator = LeakEvaluator(str(path), score)
        evaluator.process([{"image_id": 1}], [{"instances": instances}])
        assert evaluator.evaluate()["mosaic"] == pytest.approx(rates)
    evaluator.reset()
    empty = evaluator.evaluate()["mosaic"]
    assert all(math.isnan(empty[name]) for name in ("leak_rate", "leak_rate_area", "duplicate_rate"))
    assert empty["detections"] == 0


def shifted(columns: int) -> torch.Tensor:
    mask = torch.zeros(16, 20, dtype=torch.bool)
    mask[2:6, columns : columns + 6] = True
    return mask


def test_a_mask_that_is_there_twice_is_told(tmp_path: Path) -> None:
    """A square moved by a sixth of its width has an IoU of 5/7; by half, 1/3. The weaker of two is the duplicate."""
    masks = torch.stack([shifted(1), shifted(2), shifted(5), shifted(1)])
    assert duplicates(masks, torch.tensor([0, 0, 0, 1])).tolist() == [False, True, False, False]
    assert duplicates(masks[[1, 0, 2, 3]], torch.zeros(4, dtype=torch.long)).tolist() == [False, True, False, True]
    assert duplicates(encoded_masks([masks], (16, 20)), torch.zeros(4)).tolist() == [False, True, False, True]
    assert duplicates(masks[:0], torch.zeros(0)).tolist() == []
    path = tmp_path / "mosaics.json"
    path.write_text(json.dumps({"images": [{"id": 1, "tiles": TILES}]}))
    instances = Instances((16, 20), pred_masks=masks, pred_boxes=Boxes(torch.zeros(4, 4)))
    instances.scores, instances.pred_classes = torch.tensor([0.5, 0.9, 0.8, 0.7]), torch.zeros(4, dtype=torch.long)
    evaluator = LeakEvaluator(str(path), 0.6)
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    assert evaluator.evaluate()["mosaic"]["duplicate_rate"] == pytest.approx(100 / 3)
