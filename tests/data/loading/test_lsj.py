"""Large-scale jitter: frame, seeds, run-length masks, empty and broken records. (Numbers: the golden test.)"""

from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from PIL import Image

from adet_iuq.config import get_cfg
from adet_iuq.data import build_train_loader
from adet_iuq.data.annotations.panoptic import id_colours, segment_ids
from adet_iuq.data.loading.lsj import InstanceLSJMapper, PanopticLSJMapper
from adet_iuq.errors import UserError

HEIGHT, WIDTH, FRAME = 60, 80, 64
POLYGON = [10.0, 12.0, 50.0, 12.0, 50.0, 40.0, 10.0, 40.0]
Record = dict[str, Any]


def annotation(segmentation: Any, label: int, crowd: int = 0) -> dict[str, Any]:
    box = {"bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYWH_ABS}
    return {"segmentation": segmentation, "category_id": label, "iscrowd": crowd, **box}


def rle() -> dict[str, Any]:
    """The same rectangle as POLYGON."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[12:40, 10:50] = 1
    return mask_util.encode(mask)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    pixels = np.random.default_rng(0).integers(0, 100, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    ids[:, :40], ids[20:30, 10:20], ids[50:, 60:] = 70000, 3, 9
    Image.fromarray(id_colours(ids)).save(tmp_path / "panoptic.png")
    segments = [
        {"id": 70000, "category_id": 5, "iscrowd": 0, "isthing": False},
        {"id": 3, "category_id": 1, "iscrowd": 0, "isthing": True},
        {"id": 9, "category_id": 2, "iscrowd": 1, "isthing": True},
    ]
    return {
        "file_name": str(tmp_path / "image.png"), "height": HEIGHT, "width": WIDTH, "image_id": 1, "sample_seed": 0,
        "annotations": [annotation([POLYGON], 3), annotation(rle(), 4), annotation([POLYGON], 0, crowd=1)],
        "pan_seg_file_name": str(tmp_path / "panoptic.png"), "segments_info": segments,
    }  # fmt: skip


def config(low: float = 0.1, high: float = 2.0, flip: str = "horizontal") -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP = FRAME, "RGB", flip
    cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE = low, high
    return cfg


def test_smaller_image_stands_in_a_grey_frame(record: Record) -> None:
    sample = InstanceLSJMapper(config(0.5, 0.5, "none"))(record)
    assert sample["content_size"] == (24, 32)  # the long side is half the frame
    image = sample["image"]
    assert image.shape == (3, FRAME, FRAME) and image.dtype == torch.uint8
    assert (image[:, 24:] == 128).all() and (image[:, :, 32:] == 128).all() and (image[:, :24, :32] < 100).all()
    box = sample["instances"].gt_boxes.tensor[0].tolist()
    assert box == pytest.approx([4.0, 4.8, 20.0, 16.0])
    assert "annotations" not in sample and sample["image_id"] == 1


def test_larger_image_is_cropped(record: Record) -> None:
    sample = InstanceLSJMapper(config(2.0, 2.0))(record)
    assert sample["content_size"] == (FRAME, FRAME)


@pytest.mark.parametrize("seed", range(8))
def test_run_length_masks_go_where_the_same_polygon_goes(record: Record, seed: int) -> None:
    instances = InstanceLSJMapper(config(0.7, 2.0))({**record, "sample_seed": seed})["instances"]
    assert instances.gt_classes.tolist() == [3, 4]
    polygon, runs = instances.gt_masks.tensor
    assert (polygon & runs).sum() > 0.9 * (polygon | runs).sum() > 0
    assert (instances.gt_boxes.tensor[0] - instances.gt_boxes.tensor[1]).abs().max() <= 1.0


@pytest.mark.parametrize("mapper", [InstanceLSJMapper, PanopticLSJMapper])
def test_sample_depends_on_its_seed_only(record: Record, mapper: type[InstanceLSJMapper]) -> None:
    mapped = mapper(config())
    first = mapped({**record, "sample_seed": 5})
    for state in (1, 2):
        np.random.seed(state)
        again = mapped({**record, "sample_seed": 5})
        assert torch.equal(again["image"], first["image"])
        assert torch.equal(again["instances"].gt_masks.tensor, first["instances"].gt_masks.tensor)
        assert np.random.rand() == np.random.RandomState(state).rand()
    assert len({mapped({**record, "sample_seed": seed})["content_size"] for seed in range(10)}) > 3


def test_records_without_instances(record: Record) -> None:
    for annotations in ([], [annotation([POLYGON], 0, crowd=1)], [annotation([[1.0, 2.0]], 0)]):
        instances = InstanceLSJMapper(config())({**record, "annotations": annotations})["instances"]
        assert len(instances) == 0 and instances.gt_masks.tensor.shape == (0, FRAME, FRAME)
        assert instances.gt_boxes.tensor.shape == (0, 4) and instances.gt_classes.dtype == torch.int64
    instances = PanopticLSJMapper(config())({**record, "segments_info": []})["instances"]
    assert len(instances) == 0 and instances.gt_masks.tensor.shape == (0, FRAME, FRAME)


def test_panoptic_masks_share_the_pixels_and_segments_cut_away_stay(record: Record) -> None:
    mapper = PanopticLSJMapper(config(0.8, 0.8, "none"))
    instances = mapper(record)["instances"]
    assert instances.gt_classes.tolist() == [5, 1] and instances.gt_isthing.tolist() == [False, True]
    assert not (instances.gt_masks.tensor[0] & instances.gt_masks.tensor[1]).any()
    assert instances.gt_masks.tensor.flatten(1).any(1).all() and not instances.gt_masks.tensor[:, 39:].any()
    gone = {"id": 12345, "category_id": 7, "iscrowd": 0}
    instances = mapper({**record, "segments_info": [*record["segments_info"], gone]})["instances"]
    assert instances.gt_classes.tolist() == [5, 1, 7] and not instances.gt_masks.tensor[2].any()
    assert instances.gt_boxes.tensor[2].tolist() == [0, 0, 0, 0]


def test_damaged_panoptic_maps(record: Record) -> None:
    path = Path(record["pan_seg_file_name"])
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(path)
    with pytest.raises(UserError, match=r"panoptic\.png is 6 x 5 pixels .* 80 x 60"):
        PanopticLSJMapper(config())(record)
    path.unlink()
    with pytest.raises(UserError, match=r"Panoptic map .*panoptic\.png does not exist"):
        PanopticLSJMapper(config())(record)


def test_ids_and_colours_are_inverse() -> None:
    ids = np.array([[0, 255, 256], [65535, 65536, 2**24 - 1]])
    assert np.array_equal(segment_ids(id_colours(ids)), ids)
    assert id_colours(ids)[1, 1].tolist() == [0, 0, 1]


def test_the_config_names_the_mapper(cfg: CfgNode) -> None:
    cfg.INPUT.IMAGE_SIZE, cfg.INPUT.DATASET_MAPPER_NAME = FRAME, "coco_instance_lsj"
    batch = next(iter(build_train_loader(cfg, seed=1, start_iter=0, images_per_batch=2)))
    assert [sample["image"].shape[1:] for sample in batch] == [(FRAME, FRAME)] * 2
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_panoptic_lsj"
    with pytest.raises(UserError, match="'shapes_train' has no segments_info"):
        build_train_loader(cfg, seed=1, start_iter=0, images_per_batch=2)
    cfg.DATASETS.TRAIN = ("shapes_panoptic_train",)
    batch = next(iter(build_train_loader(cfg, seed=1, start_iter=0, images_per_batch=2)))
    assert all(5 in sample["instances"].gt_classes for sample in batch)  # the ground is in every scene
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_instance_lsj"
    with pytest.raises(UserError, match="'shapes_panoptic_train' has no annotations"):
        build_train_loader(cfg, seed=1, start_iter=0, images_per_batch=2)
    cfg.INPUT.DATASET_MAPPER_NAME = "lsj"
    with pytest.raises(UserError, match=r'"lsj"; known are .*"coco_instance_lsj"'):
        build_train_loader(cfg, seed=1, start_iter=0, images_per_batch=2)
