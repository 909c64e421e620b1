"""The scenes "shapes" as a panoptic data set: the shapes are things, the ground behind them is the only stuff.

It is made once from the rendered scenes, beside them; images and instance annotations are the same files.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from PIL import Image

from adet_iuq.data.annotations.panoptic import id_colours, load_panoptic_records, panoptic_metadata
from adet_iuq.data.annotations.segmentation import to_rle
from adet_iuq.data.cache import make_folder_once
from adet_iuq.data.shapes.dataset import ANNOTATIONS, ROOT_REMEDY, render_shapes, shapes_split
from adet_iuq.data.shapes.presets import preset_of

SHAPES_PANOPTIC = {"shapes_panoptic_train": "train", "shapes_panoptic_val": "val"}
BACKGROUND = "background"
PANOPTIC_JSON = "panoptic.json"
_FORMAT_VERSION = 1  # to be raised with every change to what is written


def shapes_panoptic_categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's panoptic `categories`: the shapes of these classes, then the ground."""
    names = [*classes, BACKGROUND]
    return [{"id": i + 1, "name": name, "isthing": int(name != BACKGROUND)} for i, name in enumerate(names)]


def shapes_panoptic_folder(cfg: CfgNode, split: str) -> Path:
    """The folder of the panoptic JSON and PNG files of a split; the images are those of `shapes_split`."""
    scenes = shapes_split(cfg, split)
    return scenes.with_name(f"{scenes.name}-panoptic{_FORMAT_VERSION}")


def make_shapes_panoptic(cfg: CfgNode, split: str) -> Path:
    """Renders a split and its panoptic files unless they exist; returns the folder of the panoptic files.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folder = shapes_panoptic_folder(cfg, split)
    scenes = render_shapes(cfg, split)
    make_folder_once(
        folder,
        lambda partial: _write_panoptic(partial, scenes),
        is_whole=lambda made: (made / PANOPTIC_JSON).exists(),
        remedy=ROOT_REMEDY,
    )
    return folder


def shapes_panoptic_loader(cfg: CfgNode, split: str) -> Callable[[], list[dict[str, Any]]]:
    """The function that the catalog calls for the records. It may run long after this call, so it keeps a copy of `cfg`."""
    frozen = cfg.clone()

    def load() -> list[dict[str, Any]]:
        folder = make_shapes_panoptic(frozen, split)
        return load_panoptic_records(str(folder / PANOPTIC_JSON), str(shapes_split(frozen, split)), str(folder))

    return load


def shapes_panoptic_metadata(cfg: CfgNode, split: str) -> dict[str, Any]:
    """The entries of a split in detectron2's catalog: classes, files, and the kind of its evaluator."""
    folder, scenes = shapes_panoptic_folder(cfg, split), shapes_split(cfg, split)
    return {
        **panoptic_metadata(shapes_panoptic_categories(preset_of(cfg).classes)),
        "json_file": str(scenes / ANNOTATIONS),
        "image_root": str(scenes),
        "panoptic_json": str(folder / PANOPTIC_JSON),
        "panoptic_root": str(folder),
        "evaluator_type": "coco_panoptic_seg",
        "ignore_label": 255,
        "label_divisor": 1000,
    }


def _write_panoptic(partial: Path, scenes: Path) -> None:
    content = json.loads((scenes / ANNOTATIONS).read_bytes())
    categories = shapes_panoptic_categories([category["name"] for category in content["categories"]])
    entries = []
    for image in content["images"]:
        annotations = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        ids, segments = _panoptic_map(annotations, categories, image["height"], image["width"])
        Image.fromarray(id_colours(ids)).save(partial / image["file_name"])
        entries.append({"image_id": image["id"], "file_name": image["file_name"], "segments_info": segments})
    whole = {"images": content["images"], "annotations": entries, "categories": categories}
    (partial / PANOPTIC_JSON).write_text(json.dumps(whole, sort_keys=True), encoding="utf-8")


def _panoptic_map(
    annotations: list[dict[str, Any]], categories: list[dict[str, Any]], height: int, width: int
) -> tuple[npt.NDArray[np.int64], list[dict[str, Any]]]:
    """Ids (H, W) and segments of one scene, whose visible masks do not overlap; the ground comes last."""
    ground = len(annotations) + 1
    ids = np.full((height, width), ground, dtype=np.int64)
    for number, annotation in enumerate(annotations):
        ids[mask_util.decode(to_rle(annotation["segmentation"], height, width)) > 0] = number + 1
    labels = [*(annotation["category_id"] for annotation in annotations), categories[-1]["id"]]
    segments = []
    for number, category in enumerate(labels):
        mask = ids == number + 1
        box = mask_util.toBbox(mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist()
        segments.append({"id": number + 1, "category_id": category, "area": int(mask.sum()), "bbox": box, "iscrowd": 0})
    return ids, segments
