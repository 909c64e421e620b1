"""The rendered scenes: same bytes for the same seed, and annotations that say exactly what was painted."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image
from pycocotools.coco import COCO

from adet_iuq.data.seeding import derive_seed
from adet_iuq.data.shapes.dataset import ANNOTATIONS, FORMAT_VERSION, render_shapes, shapes_split
from adet_iuq.data.shapes.render import CLASSES, render_scene
from adet_iuq.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_equal_parameters_give_equal_bytes(cfg: CfgNode, tmp_path: Path) -> None:
    first = contents(render_shapes(cfg, "train"))
    cfg.DATASETS.SHAPES.ROOT = str(tmp_path / "elsewhere")
    assert contents(render_shapes(cfg, "train")) == first
    cfg.DATASETS.SHAPES.SEED = 1
    other = contents(render_shapes(cfg, "train"))
    assert other.keys() == first.keys() and all(other[name] != first[name] for name in first)


def test_an_image_does_not_depend_on_how_many_there_are(cfg: CfgNode) -> None:
    few = contents(render_shapes(cfg, "train"))
    cfg.DATASETS.SHAPES.NUM_TRAIN = 12
    many = contents(render_shapes(cfg, "train"))
    assert len(many) == len(few) + 2
    assert all(many[name] == few[name] for name in few if name != ANNOTATIONS)


def test_train_and_val_differ(cfg: CfgNode) -> None:
    train, val = contents(render_shapes(cfg, "train")), contents(render_shapes(cfg, "val"))
    assert train["000001.png"] != val["000001.png"]


def test_annotations_are_what_a_painter_leaves_visible(cfg: CfgNode) -> None:
    folder = render_shapes(cfg, "train")
    coco = COCO(str(folder / ANNOTATIONS))
    kinds = set()
    for index, image_id in enumerate(sorted(coco.imgs)):
        scene = render_scene(96, np.random.default_rng(derive_seed(FORMAT_VERSION, 0, 0, index)))
        assert np.array_equal(np.array(Image.open(folder / coco.imgs[image_id]["file_name"])), scene.image)
        painted = np.full((96, 96), -1)
        for number, figure in enumerate(scene.figures):  # later figures cover earlier ones
            painted[figure.full] = number
        annotations = coco.imgToAnns[image_id]
        assert len(annotations) == len(scene.figures)
        for number, (annotation, figure) in enumerate(zip(annotations, scene.figures, strict=True)):
            mask = coco.annToMask(annotation) > 0
            assert np.array_equal(mask, painted == number)
            assert annotation["category_id"] == figure.look.label + 1
            assert annotation["area"] == mask.sum() >= 24
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            kinds.add(type(annotation["segmentation"]))
    assert kinds == {list, dict}


def test_scenes_have_all_classes_look_alikes_occlusion_and_empty_images() -> None:
    scenes = [render_scene(128, np.random.default_rng(seed)) for seed in range(60)]
    figures = [figure for scene in scenes for figure in scene.figures]
    assert {figure.look.label for figure in figures} == set(range(len(CLASSES)))
    assert any(not scene.figures for scene in scenes)
    hidden = sum(not np.array_equal(figure.visible, figure.full) for figure in figures)
    assert hidden > 0.1 * len(figures)
    alike = sum(any(a.look is b.look for b in s.figures if a is not b) for s in scenes for a in s.figures)
    assert alike > 0.4 * len(figures)
    areas = sorted(figure.full.sum() for figure in figures)
    assert areas[-1] > 20 * areas[0]


def test_rendering_once_even_when_several_start_together(cfg: CfgNode) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: render_shapes(cfg, "train"), range(4)))
    (folder,) = folders
    assert len(contents(folder)) == 11
    assert not [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    before = (folder / ANNOTATIONS).stat().st_mtime_ns
    render_shapes(cfg, "train")
    assert (folder / ANNOTATIONS).stat().st_mtime_ns == before


def test_a_damaged_folder_is_rendered_again(cfg: CfgNode) -> None:
    folder = render_shapes(cfg, "val")
    whole = contents(folder)
    (folder / "000002.png").unlink()
    assert contents(render_shapes(cfg, "val")) == whole


def test_segmentations_are_valid_json_numbers(cfg: CfgNode) -> None:
    parsed = json.loads((render_shapes(cfg, "val") / ANNOTATIONS).read_text())
    assert [category["name"] for category in parsed["categories"]] == list(CLASSES)
    assert [annotation["id"] for annotation in parsed["annotations"]] == list(range(1, len(parsed["annotations"]) + 1))


def test_errors_name_the_key(cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cfg.DATASETS.SHAPES.ROOT = str(tmp_path / "file")
    with pytest.raises(UserError, match=r"DATASETS\.SHAPES\.ROOT"):
        render_shapes(cfg, "train")
    cfg.DATASETS.SHAPES.SIZE = 20
    with pytest.raises(UserError, match="SIZE 20 must be at least 64"):
        shapes_split(cfg, "train")
