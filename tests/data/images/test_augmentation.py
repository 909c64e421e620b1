"""The instance-centred crop."""

import numpy as np
import pytest
from detectron2.data import transforms as T

from adet_iuq.config import get_cfg
from adet_iuq.data.images.augmentation import (
    InstanceCrop,
    ResizeScale,
    ResizeShortestEdge,
    build_test_augmentations,
    build_training_augmentations,
    grow_window,
)
from adet_iuq.data.seeding import seeded
from adet_iuq.errors import UserError

IMAGE = np.zeros((60, 80, 3), dtype=np.uint8)
BOXES = np.array([[3.5, 2.0, 9.0, 20.0], [50.2, 40.0, 90.0, 59.0], [30.0, 30.0, 31.0, 31.0]])


def crop(augmentation: InstanceCrop, seed: int, boxes: np.ndarray = BOXES) -> tuple[int, int, int, int]:
    with seeded(seed):
        window = augmentation.get_transform(IMAGE, boxes)
    return window.x0, window.y0, window.x0 + window.w, window.y0 + window.h


def test_window_holds_the_centre_of_some_instance() -> None:
    augmentation = InstanceCrop("absolute", (24, 20))
    clipped = np.clip(BOXES, 0, [80, 60, 80, 60])
    centres = (clipped[:, :2] + clipped[:, 2:]) / 2
    chosen: set[int] = set()
    for seed in range(100):
        x0, y0, x1, y1 = crop(augmentation, seed)
        assert (x1 - x0, y1 - y0) == (20, 24)
        assert x0 >= 0 and y0 >= 0 and x1 <= 80 and y1 <= 60
        holds = [x0 <= np.ceil(x) and y0 <= np.ceil(y) and np.floor(x) <= x1 and np.floor(y) <= y1 for x, y in centres]
        assert any(holds)
        chosen.update(np.flatnonzero(holds).tolist())
    assert chosen == {0, 1, 2}


def test_start_is_uniform_between_its_bounds() -> None:
    single = np.array([[38.0, 28.0, 42.0, 32.0]])  # centre 40, 30
    windows = [crop(InstanceCrop("absolute", (24, 20)), seed, single) for seed in range(600)]
    assert {x0 for x0, *_ in windows} == set(range(20, 41))
    assert {y0 for _, y0, *_ in windows} == set(range(6, 31))


def test_grown_window_cuts_no_box() -> None:
    augmentation = InstanceCrop("relative_range", (0.2, 0.2), cut_instances=False)
    rng = np.random.default_rng(0)
    for seed in range(100):
        corners = rng.uniform(0, [80, 60], (8, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(1, 20, (8, 2))], axis=1)
        x0, y0, x1, y1 = crop(augmentation, seed, boxes)
        assert x0 >= 0 and y0 >= 0 and x1 <= 80 and y1 <= 60
        for left, top, right, bottom in np.clip(boxes, 0, [80, 60, 80, 60]):
            inside = left >= x0 and top >= y0 and right <= x1 and bottom <= y1
            outside = left >= x1 or top >= y1 or right <= x0 or bottom <= y0
            assert inside or outside or min(right - left, bottom - top) < 2e-3


def test_window_grows_no_further_than_needed() -> None:
    boxes = np.array([[5.0, 5.0, 12.5, 9.0], [40.0, 40.0, 50.0, 50.0], [12.2, 0.0, 13.0, 6.0]])
    assert grow_window(np.array([0, 0, 10, 10]), boxes[:2]).tolist() == [0, 0, 13, 10]
    assert grow_window(np.array([0, 0, 10, 10]), boxes).tolist() == [0, 0, 13, 10]
    assert grow_window(np.array([0, 0, 5, 5]), boxes[1:2]).tolist() == [0, 0, 5, 5]


def test_image_without_boxes_is_cropped_anywhere() -> None:
    windows = {crop(InstanceCrop("absolute", (24, 20)), seed, np.zeros((0, 4))) for seed in range(20)}
    assert len(windows) > 10 and all(x1 - x0 == 20 and y1 - y0 == 24 for x0, y0, x1, y1 in windows)


@pytest.mark.parametrize("crop_on", [False, True])
@pytest.mark.parametrize("rotate", [False, True])
def test_order_of_augmentations(crop_on: bool, rotate: bool) -> None:
    cfg = get_cfg()
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.IS_ROTATE = crop_on, rotate
    kinds: list[type] = [InstanceCrop] * crop_on + [T.RandomRotation] * (crop_on and rotate)
    kinds += [ResizeShortestEdge, T.RandomFlip]
    assert [type(a) for a in build_training_augmentations(cfg)] == kinds
    cfg.INPUT.HFLIP_TRAIN = False
    assert [type(a) for a in build_training_augmentations(cfg)] == kinds[:-1]


@pytest.mark.parametrize(
    "style,sizes,words",
    [("range", (64,), "two sizes"), ("choice", (), "at least one"), ("uniform", (64, 96), '"choice" or "range"')],
)
def test_sizes_that_do_not_fit_are_refused_by_name(style: str, sizes: tuple[int, ...], words: str) -> None:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.MIN_SIZE_TRAIN = style, sizes
    with pytest.raises(UserError, match=f"MIN_SIZE_TRAIN.*{words}"):
        build_training_augmentations(cfg)


@pytest.mark.parametrize("shape", [(1, 1500, 3), (1500, 1, 3), (1, 3000, 3), (2, 1500, 3), (60, 80, 3)])
def test_a_side_keeps_a_pixel(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 64, 128
    (ours,) = build_test_augmentations(cfg)
    theirs = T.ResizeShortestEdge(64, 128, "choice").get_transform(image)
    resized = ours.get_transform(image).apply_image(image)
    assert resized.shape == (max(theirs.new_h, 1), max(theirs.new_w, 1), 3)
    if min(theirs.new_h, theirs.new_w):
        assert np.array_equal(resized, theirs.apply_image(image))
    scaled = ResizeScale(0.1, 0.1, target_height=64, target_width=64).get_transform(image)
    assert min(scaled.apply_image(image).shape) > 0
    assert ResizeShortestEdge((32, 64), 128, "range").get_transform(image).apply_image(image).size
