"""The training mapper against transforms done by hand on whole masks and images."""

import random
from collections.abc import Callable
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
from adet_iuq.data.loading.mapper import TrainingMapper
from adet_iuq.data.seeding import derive_seed, seeded
from adet_iuq.errors import UserError

HEIGHT, WIDTH = 30, 40
Record = dict[str, Any]


def annotation(box: list[float], segmentation: Any, label: int = 0, crowd: int = 0) -> dict[str, Any]:
    return {
        "bbox": box,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": label,
        "iscrowd": crowd,
        "segmentation": segmentation,
    }


def polygon(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def blob_rle() -> tuple[np.ndarray, dict[str, Any]]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[4:15, 3:20] = 1
    mask[8:10, 5:9] = 0
    return mask.astype(bool), mask_util.encode(mask)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    annotations = [
        annotation([5, 6, 20, 10], polygon(5, 6, 20, 10), 3),
        annotation([3, 4, 17, 11], blob_rle()[1], 1),
        annotation([0, 0, 40, 30], blob_rle()[1], 2, crowd=1),
        annotation([0, 20, 30, 8], polygon(0, 20, 10, 8) + polygon(20, 20, 10, 8), 5),
    ]
    size = {"height": HEIGHT, "width": WIDTH}
    return {"file_name": str(tmp_path / "image.png"), **size, "image_id": 4, "annotations": annotations}


def config(size: int = HEIGHT, flip: bool = False) -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.HFLIP_TRAIN = (size,), flip
    return cfg


def run(cfg: CfgNode, record: Record, seed: int = 0) -> Record:
    return TrainingMapper(cfg)({**record, "sample_seed": seed})


def flip_seed(cfg: CfgNode, record: Record, flipped: bool) -> int:
    """A seed with which the mapper flips, or does not."""
    plain = run(config(cfg.INPUT.MIN_SIZE_TRAIN[0]), record)["image"]
    return next(seed for seed in range(50) if torch.equal(run(cfg, record, seed)["image"], plain) != flipped)


def test_untouched_sample(record: Record) -> None:
    sample = run(config(), record)
    pixels = np.array(Image.open(record["file_name"]))
    assert sample["image"].dtype == torch.uint8
    assert np.array_equal(sample["image"].numpy(), pixels[:, :, ::-1].transpose(2, 0, 1))  # BGR
    instances = sample["instances"]
    assert instances.image_size == (HEIGHT, WIDTH)
    assert instances.gt_classes.tolist() == [3, 1, 5]  # the crowd is gone
    assert instances.gt_boxes.tensor.tolist() == [[5, 6, 25, 16], [3, 4, 20, 15], [0, 20, 30, 28]]
    expected = np.zeros((3, HEIGHT, WIDTH), dtype=bool)
    expected[0, 6:16, 5:25] = True
    expected[1] = blob_rle()[0]
    expected[2, 20:28, 0:10] = expected[2, 20:28, 20:30] = True
    assert instances.gt_masks.tensor.dtype == torch.bool
    assert np.array_equal(instances.gt_masks.tensor.numpy(), expected)
    assert sample["image_id"] == 4 and "annotations" not in sample


def test_flip_equals_flipping_everything_by_hand(record: Record) -> None:
    cfg = config(flip=True)
    plain = run(config(), record)
    flipped = run(cfg, record, flip_seed(cfg, record, True))
    assert torch.equal(flipped["image"], plain["image"].flip(2))
    assert torch.equal(flipped["instances"].gt_masks.tensor, plain["instances"].gt_masks.tensor.flip(2))
    x0, y0, x1, y1 = plain["instances"].gt_boxes.tensor.unbind(1)
    assert torch.equal(flipped["instances"].gt_boxes.tensor, torch.stack([WIDTH - x1, y0, WIDTH - x0, y1], 1))


def test_resize_equals_resizing_everything_by_hand(record: Record) -> None:
    sample = run(config(2 * HEIGHT), record)
    size = (2 * WIDTH, 2 * HEIGHT)
    image = Image.open(record["file_name"]).resize(size, Image.Resampling.BILINEAR)
    assert np.array_equal(sample["image"].numpy(), np.array(image)[:, :, ::-1].transpose(2, 0, 1))
    masks = sample["instances"].gt_masks.tensor.numpy()
    blob = Image.fromarray(blob_rle()[0].astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    assert np.array_equal(masks[1], np.array(blob) > 0)
    scaled = [[2 * value for value in part] for part in record["annotations"][3]["segmentation"]]
    merged = mask_util.merge(mask_util.frPyObjects(scaled, 2 * HEIGHT, 2 * WIDTH))
    assert np.array_equal(masks[2], mask_util.decode(merged) > 0)
    assert sample["instances"].gt_boxes.tensor[0].tolist() == [10, 12, 50, 32]


def test_slanted_polygon_is_rasterised_after_the_resize(record: Record) -> None:
    triangle = [[3.3, 2.2, 30.7, 9.1, 11.9, 25.4]]
    record["annotations"] = [annotation([3.3, 2.2, 27.4, 23.2], triangle)]
    mask = run(config(300), record)["instances"].gt_masks.tensor[0].numpy()
    x, y = np.meshgrid(np.arange(400) + 0.5, np.arange(300) + 0.5)
    points = np.array(triangle).reshape(3, 2) * 10
    sides = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(points, np.roll(points, -1, axis=0), strict=True)
    ]
    inside = np.all(np.array(sides) > 0, axis=0)
    assert (mask & inside).sum() / (mask | inside).sum() > 0.99


def test_sample_depends_on_its_seed_only(record: Record) -> None:
    cfg = config(flip=True)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.ENABLED = (24, 27, 30), True
    mapper = TrainingMapper(cfg)
    first = mapper({**record, "sample_seed": 5})
    for state in (1, 2):
        np.random.seed(state)
        random.seed(state)
        torch.manual_seed(state)
        again = mapper({**record, "sample_seed": 5})
        assert torch.equal(again["image"], first["image"])
        assert torch.equal(again["instances"].gt_masks.tensor, first["instances"].gt_masks.tensor)
    shapes = {tuple(mapper({**record, "sample_seed": seed})["image"].shape) for seed in range(20)}
    assert len(shapes) > 5


def test_process_random_state_is_left_alone(record: Record) -> None:
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    expected = (np.random.rand(), random.random(), torch.rand(()).item())
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    run(config(flip=True), record, 99)
    with pytest.raises(ZeroDivisionError), seeded(3):
        _ = 1 / 0
    assert (np.random.rand(), random.random(), torch.rand(()).item()) == expected


def test_derived_seeds_are_63_bits_and_differ() -> None:
    seeds = {derive_seed(run, sample) for run in (-1, 0, 1, 2**62) for sample in range(500)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 2) == derive_seed(1, 2) != derive_seed(2, 1)


def test_sample_without_instances(record: Record) -> None:
    for annotations in ([], [record["annotations"][2]]):
        sample = run(config(2 * HEIGHT, flip=True), {**record, "annotations": annotations})
        instances = sample["instances"]
        assert len(instances) == 0
        assert instances.gt_masks.tensor.shape == (0, 2 * HEIGHT, 2 * WIDTH)
        assert instances.gt_boxes.tensor.shape == (0, 4) and instances.gt_classes.dtype == torch.int64


def test_empty_and_broken_instances_are_dropped(record: Record) -> None:
    good = record["annotations"][0]
    broken_rle = {"size": [HEIGHT, WIDTH], "counts": b"zzzz"}
    record["annotations"] = [
        annotation([90, 90, 5, 5], polygon(90, 90, 5, 5)),
        annotation([5, 5, 4, 4], polygon(5, 5, 0, 4)),
        annotation([5, 5, 4, 4], [[5, 5, 9, 9]]),
        annotation([5, 5, 4, 4], broken_rle),
        annotation([5, 5, 4, 4], None),
        good,
    ]
    assert run(config(), record)["instances"].gt_classes.tolist() == [3]


@pytest.mark.parametrize("box", [[90, 90, 5, 5], [-9, 2, 8, 8], [5, 6, 0, 4]])
def test_a_box_of_which_nothing_is_left_is_taken_from_the_mask(record: Record, box: list[float]) -> None:
    record["annotations"][0]["bbox"] = box
    instances = run(config(2 * HEIGHT), record)["instances"]
    assert instances.gt_classes.tolist() == [3, 1, 5]
    assert instances.gt_boxes.tensor.tolist() == [[10, 12, 50, 32], [6, 8, 40, 30], [0, 40, 60, 56]]


@pytest.mark.parametrize("rotate", [False, True])
def test_crop_recomputes_boxes_from_masks(record: Record, rotate: bool) -> None:
    cfg = config(flip=True)
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE, cfg.INPUT.IS_ROTATE = True, [0.4, 0.4], rotate
    for seed in range(10):
        instances = run(cfg, record, seed)["instances"]
        for box, mask in zip(instances.gt_boxes.tensor, instances.gt_masks.tensor, strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "does not exist"),
        (truncate, "cannot be read"),
        (lambda path: path.write_text("hello"), "cannot be read"),
        (lambda path: Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(path), r"is 6 x 5 pixels .* says 40 x 30"),
    ],
)
def test_bad_image_files(record: Record, damage: Callable[[Path], Any], message: str) -> None:
    damage(Path(record["file_name"]))
    with pytest.raises(UserError, match=message) as caught:
        run(config(), record)
    assert record["file_name"] in str(caught.value)
