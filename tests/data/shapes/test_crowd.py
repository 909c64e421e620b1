"""The crowded preset: many near-identical touching eggs, annotated exactly; the default scenes stay as they were."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image
from pycocotools.coco import COCO

from adet_iuq.data.registration.class_counts import fill_class_counts
from adet_iuq.data.seeding import derive_seed
from adet_iuq.data.shapes.crowd import CROWD_CLASSES, render_crowd
from adet_iuq.data.shapes.dataset import ANNOTATIONS, FORMAT_VERSION, render_shapes, shapes_split
from adet_iuq.data.shapes.panoptic import PANOPTIC_JSON, make_shapes_panoptic
from adet_iuq.data.shapes.render import Figure, Mask
from adet_iuq.errors import UserError

# Of the ten scenes of 96 pixels that the fixture's config renders, as they were before there were presets.
MIXED = "89150ab7bff38026b18d836adb42d0be4a9242bb19698c479952f8b1c0131c1e"


@pytest.fixture
def crowded(cfg: CfgNode) -> CfgNode:
    cfg.DATASETS.SHAPES.PRESET = "crowded"
    return cfg


def digest(folder: Path) -> str:
    """Of all pixels and of the annotations."""
    pixels = [np.asarray(Image.open(path)).tobytes() for path in sorted(folder.glob("*.png"))]
    return hashlib.sha256(b"".join([*pixels, (folder / ANNOTATIONS).read_bytes()])).hexdigest()


def touches(mask: Mask, other: Mask) -> bool:
    """Whether the masks share a pixel or have pixels side by side."""
    grown = np.pad(mask, 1)
    grown = grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:] | mask
    return bool((grown & other).any())


def test_the_default_scenes_have_not_changed(cfg: CfgNode) -> None:
    assert digest(render_shapes(cfg, "train")) == MIXED


def test_equal_seeds_give_equal_crowds(crowded: CfgNode, tmp_path: Path) -> None:
    first = digest(render_shapes(crowded, "train"))
    crowded.DATASETS.SHAPES.ROOT = str(tmp_path / "elsewhere")
    assert digest(render_shapes(crowded, "train")) == first != digest(render_shapes(crowded, "val"))


def test_crowds_are_many_near_identical_touching_eggs() -> None:
    for seed in range(6):
        figures = render_crowd(128, np.random.default_rng(seed)).figures
        assert 20 <= len(figures) <= 40
        assert len({id(figure.look) for figure in figures}) == 1
        sides = np.array([_side(figure) for figure in figures])
        assert sides.max() < 1.12 * sides.min()
        alone = [a for a in figures if not any(a is not b and touches(a.full, b.full) for b in figures)]
        assert len(alone) < 0.35 * len(figures)
        assert all(figure.visible.sum() >= 0.75 * figure.full.sum() for figure in figures)


def _side(figure: Figure) -> float:
    """Square root of the outline's area."""
    x, y = figure.polygon.T
    return float(np.sqrt(0.5 * abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1)))))


def test_annotations_are_what_a_painter_leaves_visible(crowded: CfgNode) -> None:
    coco = COCO(str(render_shapes(crowded, "val") / ANNOTATIONS))
    for index, image_id in enumerate(sorted(coco.imgs)):
        scene = render_crowd(96, np.random.default_rng(derive_seed(FORMAT_VERSION, 0, 1, index)))
        painted = np.full((96, 96), -1)
        for number, figure in enumerate(scene.figures):
            painted[figure.full] = number
        annotations = coco.imgToAnns[image_id]
        assert len(annotations) == len(scene.figures)
        for number, annotation in enumerate(annotations):
            assert np.array_equal(coco.annToMask(annotation) > 0, painted == number)
            assert annotation["category_id"] == 1


def test_classes_follow_the_preset(crowded: CfgNode) -> None:
    crowded.DATASETS.TRAIN, crowded.DATASETS.TEST = ("shapes_train",), ()
    fill_class_counts(crowded)
    assert crowded.MODEL.FCOS.NUM_CLASSES == len(CROWD_CLASSES) == 1
    panoptic = json.loads((make_shapes_panoptic(crowded, "val") / PANOPTIC_JSON).read_text())
    assert [category["name"] for category in panoptic["categories"]] == [*CROWD_CLASSES, "background"]
    assert {segment["category_id"] for entry in panoptic["annotations"] for segment in entry["segments_info"]} == {1, 2}


def test_presets_have_folders_of_their_own_and_unknown_ones_are_refused(cfg: CfgNode) -> None:
    mixed = shapes_split(cfg, "train")
    cfg.DATASETS.SHAPES.PRESET = "crowded"
    assert shapes_split(cfg, "train") != mixed
    cfg.DATASETS.SHAPES.PRESET = "crowd"
    with pytest.raises(UserError, match=r"DATASETS\.SHAPES\.PRESET is 'crowd'; there are mixed and crowded"):
        shapes_split(cfg, "train")
