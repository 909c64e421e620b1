import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray
from PIL import Image

from adet_iuq.data import build_test_loader
from adet_iuq.data.registration.mosaic import (
    TILES,
    evaluated_sets,
    groups_of_four,
    make_mosaics,
    mosaic_config,
    register_mosaics,
)
from adet_iuq.errors import UserError
from helpers.mosaic_sets import register_with_mosaics


def mask_of(annotation: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.decode(segmentation).astype(bool)


def written(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "annotations.json").read_text())
    return result


def test_every_image_is_in_a_mosaic_and_the_shuffle_fills_up_the_last_one() -> None:
    groups = groups_of_four(6, seed=1)
    order = groups.flatten()
    assert groups.shape == (2, TILES)
    assert sorted(order[:6]) == list(range(6)) and list(order[6:]) == list(order[:2])
    assert np.array_equal(groups, groups_of_four(6, seed=1))
    assert not np.array_equal(groups_of_four(40, seed=1), groups_of_four(40, seed=2))
    assert groups_of_four(1, seed=0).tolist() == [[0, 0, 0, 0]]


@pytest.fixture
def mixed(cfg: CfgNode, content: dict[str, Any], tmp_path: Path) -> CfgNode:
    """Images of two sizes; a polygon that reaches 5 pixels below its image, an RLE, a crowd as uncompressed RLE."""
    content["images"][0].update(height=20, width=50)
    content["annotations"][0].update(segmentation=[[5, 6, 25, 6, 25, 25, 5, 25]], bbox=[5, 6, 20, 14], area=280)
    content["annotations"][1]["segmentation"] = {"size": [20, 50], "counts": [63, 4, 933]}
    content["annotations"][1].update(bbox=[3, 3, 1, 4], area=4)
    root = tmp_path / "mixed"
    root.mkdir()
    for entry in content["images"]:
        pixels = np.random.default_rng(entry["id"]).integers(
            0, 256, (entry["height"], entry["width"], 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(root / entry["file_name"])
    register_with_mosaics(cfg, "mixed", tmp_path, root, content)
    return cfg


def test_pixels_masks_boxes_categories_and_crowds_survive(
    mixed: CfgNode, content: dict[str, Any], tmp_path: Path
) -> None:
    folder = make_mosaics(mixed.DATASETS.TEST[0], seed=0)
    result = written(folder)
    assert result["categories"] == content["categories"]
    assert [image["id"] for image in result["images"]] == [1]  # three images, one of them twice
    (mosaic,) = result["images"]
    assert (mosaic["height"], mosaic["width"]) == (60, 100)  # the highest is 30, the widest 50
    assert mosaic["tiles"] == [[0, 0, 50, 30], [50, 0, 100, 30], [0, 30, 50, 60], [50, 30, 100, 60]]
    picture = np.asarray(Image.open(folder / mosaic["file_name"]))
    expected = []
    for source, (x0, y0, x1, y1) in zip(mosaic["source_ids"], mosaic["tiles"], strict=True):
        entry = next(image for image in content["images"] if image["id"] == source)
        height, width = entry["height"], entry["width"]
        image = np.asarray(Image.open(tmp_path / "mixed" / entry["file_name"]))
        assert np.array_equal(picture[y0 : y0 + height, x0 : x0 + width], image)  # neither stretched nor cut
        rest = np.ones((30, 50), dtype=bool)
        rest[:height, :width] = False
        assert (picture[y0:y1, x0:x1][rest] == image.mean(axis=(0, 1)).round()).all()
        for annotation in content["annotations"]:
            if annotation["image_id"] == source:
                mask = np.zeros((60, 100), dtype=bool)
                mask[y0 : y0 + height, x0 : x0 + width] = mask_of(annotation, height, width)
                left, top, *sides = annotation["bbox"]
                facts = (annotation["category_id"], annotation["iscrowd"], annotation["area"])
                expected.append((*facts, (left + x0, top + y0, *sides), mask.tobytes()))
    found = [
        (a["category_id"], a["iscrowd"], a["area"], tuple(a["bbox"]), mask_of(a, 60, 100).tobytes())
        for a in result["annotations"]
    ]
    assert Counter(found) == Counter(expected)
    assert [a["id"] for a in result["annotations"]] == list(range(1, len(found) + 1))
    assert all(a["image_id"] == 1 for a in result["annotations"])


def test_they_are_made_once_and_anew_for_another_seed_or_another_file(mixed: CfgNode) -> None:
    name = mixed.DATASETS.TEST[0]
    folder = make_mosaics(name, seed=0)
    mark = folder / "mark"
    mark.touch()
    assert make_mosaics(name, seed=0) == folder and mark.exists()
    assert make_mosaics(name, seed=1) != folder
    path = Path(MetadataCatalog.get(name).json_file)
    path.write_text(path.read_text() + "\n")
    assert make_mosaics(name, seed=0) != folder


def test_the_config_of_the_mosaics(mixed: CfgNode) -> None:
    """Objects keep their scale: a mosaic at twice the test size is four images at the test size."""
    name = mixed.DATASETS.TEST[0]
    mixed.INPUT.MIN_SIZE_TEST, mixed.INPUT.MAX_SIZE_TEST = 90, 333
    config = mosaic_config(mixed)
    assert evaluated_sets(mixed) == (name, *config.DATASETS.TEST) == (name, f"{name}_mosaic")
    assert (config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST) == (180, 666)
    (batch,) = build_test_loader(config, f"{name}_mosaic")
    assert batch[0]["image_id"] == 1 and batch[0]["image"].shape == (3, 180, 300)
    metadata = MetadataCatalog.get(f"{name}_mosaic")
    assert metadata.thing_classes == ["dog", "cat"] and metadata.thing_dataset_id_to_contiguous_id == {3: 0, 9: 1}


def test_without_the_key_there_are_none(mixed: CfgNode) -> None:
    mixed.TEST.MOSAIC.ENABLED = False
    assert evaluated_sets(mixed) == mixed.DATASETS.TEST
    assert mosaic_config(mixed).DATASETS.TEST == ()


def test_other_kinds_of_sets_have_none(cfg: CfgNode) -> None:
    cfg.TEST.MOSAIC.ENABLED = True
    cfg.DATASETS.TEST = ("shapes_panoptic_val", "shapes_val")
    assert evaluated_sets(cfg) == ("shapes_panoptic_val", "shapes_val", "shapes_val_mosaic")


def test_a_set_without_annotations_is_refused(mixed: CfgNode, content: dict[str, Any]) -> None:
    name = mixed.DATASETS.TEST[0]
    path = Path(MetadataCatalog.get(name).json_file)
    del content["annotations"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no annotations"):
        register_mosaics(name, seed=0)
    assert not list((path.parent / "cache" / "mosaic").glob(f"*{name}*/*"))
