"""Panoptic data sets: the scenes against their instance annotations, and COCO's records and names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image

from adet_iuq.data import build_test_loader, fill_class_counts, load_dataset, register_datasets
from adet_iuq.data.annotations.panoptic import add_sizes, load_panoptic_records, panoptic_metadata, segment_ids
from adet_iuq.errors import UserError


@pytest.fixture
def panoptic(cfg: CfgNode) -> CfgNode:
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes_panoptic_train",), ("shapes_panoptic_val",)
    register_datasets(cfg)
    return cfg


def test_the_maps_hold_the_visible_masks_and_the_ground(panoptic: CfgNode) -> None:
    scenes = {record["image_id"]: record for record in load_dataset("shapes_val")}
    records = load_dataset("shapes_panoptic_val")
    assert len(records) == len(scenes) > 0
    for record in records:
        scene = scenes[record["image_id"]]
        assert (record["file_name"], record["height"]) == (scene["file_name"], scene["height"])
        ids = segment_ids(read_image(record["pan_seg_file_name"], "RGB"))
        *things, ground = record["segments_info"]
        covered = np.zeros(ids.shape, dtype=bool)
        for segment, annotation in zip(things, scene["annotations"], strict=True):
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, list):
                segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *ids.shape))
            mask = mask_util.decode(segmentation) > 0
            assert np.array_equal(ids == segment["id"], mask)
            assert (segment["category_id"], segment["isthing"]) == (annotation["category_id"], True)
            assert segment["area"] == mask.sum()
            covered |= mask
        assert (ground["category_id"], ground["isthing"]) == (5, False)
        assert np.array_equal(ids == ground["id"], ~covered)


def test_class_counts_are_things_and_all(panoptic: CfgNode) -> None:
    panoptic.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 54
    fill_class_counts(panoptic)
    assert panoptic.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 6 and panoptic.MODEL.FCOS.NUM_CLASSES == 5


def test_other_parameters_make_another_set(panoptic: CfgNode) -> None:
    before = load_dataset("shapes_panoptic_val")
    panoptic.DATASETS.SHAPES.NUM_VAL = 2
    register_datasets(panoptic)
    after = load_dataset("shapes_panoptic_val")
    assert len(before) == 3 and len(after) == 2
    assert before[0]["pan_seg_file_name"] != after[0]["pan_seg_file_name"]


def test_test_loader_gives_the_ids_of_the_file(panoptic: CfgNode) -> None:
    batches = list(build_test_loader(panoptic, "shapes_panoptic_val"))
    assert [batch[0]["image_id"] for batch in batches] == [1, 2, 3]


CONTENT: dict[str, Any] = {
    "images": [{"id": 4, "file_name": "4.jpg", "height": 3, "width": 5}],
    "categories": [
        {"id": 7, "name": "sky", "isthing": 0},
        {"id": 9, "name": "cat", "isthing": 1},
        {"id": 2, "name": "dog", "isthing": 1},
    ],
    "annotations": [
        {
            "image_id": 4,
            "file_name": "4.png",
            "segments_info": [{"id": 1, "category_id": 7}, {"id": 2, "category_id": 2}],
        }
    ],
}


def test_things_come_before_stuff(tmp_path: Path) -> None:
    metadata = panoptic_metadata(CONTENT["categories"])
    assert metadata["thing_classes"] == ["cat", "dog"] and metadata["stuff_classes"] == ["cat", "dog", "sky"]
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(CONTENT))
    (record,) = load_panoptic_records(str(path), "images", "maps")
    assert [(s["category_id"], s["isthing"]) for s in record["segments_info"]] == [(2, False), (1, True)]
    assert record["file_name"] == "images/4.jpg" and record["pan_seg_file_name"] == "maps/4.png"
    bare = [{"image_id": 4}]
    add_sizes(bare, str(path))
    assert bare == [{"image_id": 4, "height": 3, "width": 5}]


@pytest.mark.parametrize(("key", "value", "words"), [("image_id", 5, "image 5"), ("segments_info", None, r"\[77\]")])
def test_entries_of_unknown_images_or_classes(tmp_path: Path, key: str, value: Any, words: str) -> None:
    value = [{"id": 1, "category_id": 77}] if value is None else value
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps({**CONTENT, "annotations": [{**CONTENT["annotations"][0], key: value}]}))
    with pytest.raises(UserError, match=words):
        load_panoptic_records(str(path), "", "")


def test_coco_is_there_under_both_names() -> None:
    for split in ("train", "val"):
        stock, name = f"coco_2017_{split}_panoptic", f"coco_2017_{split}_panoptic_with_sem_seg"
        assert stock in DatasetCatalog and name in DatasetCatalog
        metadata = MetadataCatalog.get(name)
        assert (len(metadata.thing_classes), len(metadata.stuff_classes)) == (80, 133)
        assert metadata.panoptic_json == MetadataCatalog.get(stock).panoptic_json
        assert metadata.evaluator_type == "coco_panoptic_seg"
