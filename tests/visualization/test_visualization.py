import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from adet_iuq.visualization import Drawing, draw, of_predictions, of_record, side_by_side


def left_half(height: int, width: int) -> np.ndarray:
    mask = np.zeros((1, height, width), dtype=bool)
    mask[0, :, : width // 2] = True
    return mask


def test_only_the_masks_pixels_change() -> None:
    image = np.full((400, 400, 3), 128, dtype=np.uint8)
    drawing = Drawing(np.array([[0.0, 0.0, 200.0, 400.0]]), left_half(400, 400), np.array([1]), [""])
    drawn = draw(image, drawing)
    assert drawn.shape == image.shape
    assert (drawn[100:, :198] != 128).any(axis=2).all()
    assert (drawn[100:, 204:] == 128).all()
    assert (image == 128).all()


def test_small_images_are_enlarged_with_their_masks() -> None:
    image = np.full((100, 120, 3), 128, dtype=np.uint8)
    drawing = Drawing(np.array([[0.0, 0.0, 60.0, 100.0]]), left_half(100, 120), np.array([1]), ["a"])
    drawn = draw(image, drawing)
    assert drawn.shape == (400, 480, 3)
    assert (drawn[200:, :236] != 128).any(axis=2).all() and (drawn[200:, 246:] == 128).all()


def test_nothing_to_draw_gives_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (400, 330, 3), dtype=np.uint8)
    nothing = Drawing(np.zeros((0, 4)), np.zeros((0, 400, 330), bool), np.zeros(0, np.int64), [])
    assert (draw(image, nothing) == image).all()


def test_boxes_are_drawn_where_there_are_no_masks() -> None:
    image = np.full((400, 400, 3), 128, dtype=np.uint8)
    drawn = draw(image, Drawing(np.array([[50.0, 50.0, 300.0, 300.0]]), None, np.array([0]), ["a"]))
    assert (drawn[300, 60:290] != 128).any(axis=1).all() and (drawn[200, 200] == 128).all()


def test_pictures_stand_side_by_side() -> None:
    row = side_by_side({"a": np.zeros((50, 100, 3), np.uint8), "b": np.full((50, 80, 3), 7, np.uint8)})
    assert row.shape == (74, 188, 3)
    assert (row[24:, :100] == 0).all() and (row[24:, 100:108] == 255).all() and (row[24:, 108:] == 7).all()


def test_predictions_below_the_threshold_are_left_out() -> None:
    instances = Instances((10, 20))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 5, 5], [1, 1, 9, 9]]))
    instances.scores, instances.pred_classes = torch.tensor([0.2, 0.75]), torch.tensor([0, 1])
    instances.pred_masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    drawing = of_predictions(instances, ["cat"], 0.5)
    assert drawing.boxes.tolist() == [[1, 1, 9, 9]]
    assert drawing.labels == ["class 1 75%"]
    assert drawing.masks is not None and drawing.masks.shape == (1, 10, 20)


def test_annotations_of_every_kind() -> None:
    rle = mask_util.encode(np.asfortranarray(left_half(10, 20)[0].astype(np.uint8)))
    common = {"bbox": [0, 0, 10, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    annotations = [
        {**common, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]},
        {**common, "segmentation": rle},
        {**common, "segmentation": rle, "iscrowd": 1},
    ]
    drawing = of_record({"file_name": "a.png", "height": 10, "width": 20, "annotations": annotations}, ["cat"])
    assert drawing.labels == ["cat", "cat"] and drawing.masks is not None
    assert np.array_equal(drawing.masks, left_half(10, 20).repeat(2, 0))
    assert drawing.boxes.tolist() == [[0, 0, 10, 10]] * 2


def test_an_image_without_annotations() -> None:
    drawing = of_record({"file_name": "a.png", "height": 10, "width": 20}, ["cat"])
    assert drawing.boxes.shape == (0, 4) and drawing.labels == []
