"""Training, evaluation, predictions and pictures see the same pixels of an image, and its masks lie on its objects."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from PIL import Image

from adet_iuq.config import get_cfg
from adet_iuq.data import TrainingMapper, build_test_loader, check_coco_json, load_coco_records, load_dataset
from adet_iuq.data.images.reading import read_image, read_record
from adet_iuq.data.loading.evaluation_mapper import EvaluationMapper
from adet_iuq.data.loading.lsj import InstanceLSJMapper
from adet_iuq.data.loading.mapper import transformed_mask
from adet_iuq.evaluation import build_evaluator
from adet_iuq.inference.images import pixels_of

Record = dict[str, Any]
HEIGHT, WIDTH = 48, 64
BOX = (8, 16, 24, 20)  # x, y, width, height of the object on the stored pixels, off every axis of symmetry
GREEN, RED = (20, 160, 40), (230, 20, 20)


def polygon(mask: np.ndarray) -> tuple[list[list[float]], list[float]]:
    """A rectangular mask as COCO's polygon and box."""
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = (float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return [[x0, y0, x1, y0, x1, y1, x0, y1]], [x0, y0, x1 - x0, y1 - y0]


def write_set(folder: Path, name: str, mask: np.ndarray, size: tuple[int, int]) -> Path:
    """A data set of one image, `mask` its annotation, `size` (height, width) its entry."""
    segmentation, box = polygon(mask)
    shape = {"segmentation": segmentation, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": name, "height": size[0], "width": size[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **shape}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def config(**keys: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.HFLIP_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48,), False, 48
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.update(keys)
    return cfg


def share(image: torch.Tensor, mask: torch.Tensor) -> float:
    """How much of a mask is red in a BGR image (3, H, W)."""
    red = (image[2] > 150) & (image[1] < 100)
    return float((red & mask).sum() / mask.sum())


# Of a picture that is mirrored or turned by 180 degrees only, no size tells that it was annotated as stored.
FRAMES = [*((orientation, True) for orientation in range(1, 9)), *((orientation, False) for orientation in range(5, 9))]


@pytest.mark.parametrize(("suffix", "frame"), itertools.product(("jpg", "png", "tif"), FRAMES))
def test_masks_lie_on_their_objects(tmp_path: Path, suffix: str, frame: tuple[int, bool]) -> None:
    orientation, upright = frame
    x, y, width, height = BOX
    drawn = np.zeros((HEIGHT, WIDTH), dtype=bool)
    drawn[y : y + height, x : x + width] = True
    picture = Image.fromarray(np.where(drawn[..., None], RED, GREEN).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    name = f"a.{suffix}"
    picture.save(tmp_path / name, exif=exif, quality=95, subsampling=0)  # PNG and TIFF have neither
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: np.fliplr,
        3: lambda mask: np.rot90(mask, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda mask: np.rot90(mask, -1),
        7: lambda mask: np.rot90(mask, 2).T,
        8: np.rot90,
    }
    upright_mask = turns[orientation](drawn) if orientation in turns else drawn
    mask = upright_mask if upright else drawn
    size = mask.shape
    json_file = write_set(tmp_path, name, mask, (size[0], size[1]))
    assert not check_coco_json(str(json_file), str(tmp_path)).fatal
    (record,) = load_coco_records(str(json_file), str(tmp_path))

    trained = TrainingMapper(config())({**record, "sample_seed": 1})
    assert share(trained["image"], trained["instances"].gt_masks.tensor[0]) == 1
    evaluated = EvaluationMapper(config())(record)
    assert torch.equal(evaluated["image"], trained["image"])
    plain, seen = read_record(record, "BGR")
    assert (evaluated["height"], evaluated["width"]) == plain.shape[:2]
    truth = transformed_mask(record["annotations"][0]["segmentation"], T.TransformList([]), seen, plain.shape[:2])
    assert truth is not None
    assert share(torch.from_numpy(plain.copy()).permute(2, 0, 1), torch.from_numpy(truth)) == 1
    predicted = torch.from_numpy(pixels_of(tmp_path / name).copy()).permute(2, 0, 1)
    assert share(predicted, torch.from_numpy(upright_mask.copy())) == 1


@pytest.mark.parametrize("rule", ["dtype", "image"])
@pytest.mark.parametrize(("name", "dtype"), [("a.png", "uint16"), ("a.tif", "uint16"), ("a.tif", "float32")])
def test_deep_images_are_the_same_everywhere(tmp_path: Path, name: str, dtype: str, rule: str) -> None:
    values = np.linspace(0.1, 0.7, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    Image.fromarray(values.astype(dtype) if dtype == "float32" else (values * 65535).astype(dtype)).save(
        tmp_path / name
    )
    record: Record = {"file_name": str(tmp_path / name), "height": HEIGHT, "width": WIDTH, "annotations": []}
    cfg = config(DEEP_IMAGES=rule, IMAGE_SIZE=64, MIN_SCALE=1.0, MAX_SCALE=1.0, RANDOM_FLIP="none")
    expected = pixels_of(tmp_path / name, deep_images=rule)
    low, high = (0.1, 0.7) if rule == "image" else (0, 1)
    wanted = np.round((values - low) / (high - low) * 255)
    assert np.abs(expected[..., 0].astype(float) - wanted).max() <= 1 and len(np.unique(expected)) > 100
    assert np.array_equal(read_record(record, "BGR", rule)[0], expected)
    for mapper in (TrainingMapper(cfg), EvaluationMapper(cfg), InstanceLSJMapper(cfg)):
        sample = mapper({**record, "sample_seed": 1})
        height, width = sample.get("content_size", (HEIGHT, WIDTH))
        assert np.array_equal(sample["image"].permute(1, 2, 0).numpy()[:height, :width], expected)


def test_perfect_predictions_on_swapped_entries(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:40, 5:45] = True
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    json_file = write_set(tmp_path, "a.png", mask, (WIDTH, HEIGHT))
    cfg = config()
    cfg.DATASETS.REGISTER = [[tmp_path.name, str(json_file), str(tmp_path)]]
    cfg.DATASETS.TEST = (tmp_path.name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    ((sample,),) = build_test_loader(cfg, tmp_path.name)
    assert (sample["height"], sample["width"]) == (HEIGHT, WIDTH)
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), pixels[..., ::-1])
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_masks = torch.from_numpy(mask)[None]
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    evaluator = build_evaluator(cfg, tmp_path.name, str(tmp_path / "out"))
    evaluator.reset()
    evaluator.process([sample], [{"instances": instances}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100) and results["bbox"]["AP"] == pytest.approx(100)
    trained = TrainingMapper(cfg)({**load_dataset(tmp_path.name)[0], "sample_seed": 1})
    assert np.array_equal(trained["instances"].gt_masks.tensor[0].numpy(), mask)


@pytest.mark.parametrize("shape", [(1, 1500), (1500, 1)])
def test_strips(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.new("RGB", shape[::-1]).save(tmp_path / "a.png")
    record: Record = {
        "file_name": str(tmp_path / "a.png"),
        "height": shape[0],
        "width": shape[1],
        "annotations": [],
        "sample_seed": 1,
    }
    cfg = config(MAX_SIZE_TRAIN=128, MAX_SIZE_TEST=128, IMAGE_SIZE=64)
    mappers: list[Callable[[Record], Record]] = [TrainingMapper(cfg), EvaluationMapper(cfg), InstanceLSJMapper(cfg)]
    for mapper in mappers:
        assert min(mapper(record)["image"].shape) > 0
    assert read_image(tmp_path / "a.png").shape == (*shape, 3)
