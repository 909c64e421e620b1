"""The rendered data "shapes": made once from a seed into a cache folder, as PNG files and a COCO-format JSON.

The folder's name holds the parameters, the version of the renderer and a hash of both, so other parameters never find
old files. Equal parameters give equal bytes, and an image does not depend on the number of other images.
"""

import hashlib
import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from PIL import Image

from adet_iuq.data.cache import cache_folder, make_folder_once
from adet_iuq.data.seeding import derive_seed
from adet_iuq.data.shapes.presets import DEFAULT, Preset, preset_of
from adet_iuq.data.shapes.render import Figure, rasterize
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # to be raised with every change to what is rendered or written
SPLITS = ("train", "val")
ANNOTATIONS = "annotations.json"
ROOT_REMEDY = "DATASETS.SHAPES.ROOT or the environment variable ADET_IUQ_CACHE"
_LEAST_SIZE = 64


def shapes_split(cfg: CfgNode, split: str) -> Path:
    """The folder of `split` ("train" or "val") under DATASETS.SHAPES, which holds `annotations.json` and the images.

    Raises:
        UserError: a key of DATASETS.SHAPES is out of range, or names no preset.
    """
    keys = cfg.DATASETS.SHAPES
    number = keys.NUM_TRAIN if split == "train" else keys.NUM_VAL
    if keys.SIZE < _LEAST_SIZE or number < 1:
        raise UserError(
            f"DATASETS.SHAPES: SIZE {keys.SIZE} must be at least {_LEAST_SIZE}, NUM_TRAIN {keys.NUM_TRAIN} and "
            f"NUM_VAL {keys.NUM_VAL} at least 1."
        )
    preset_of(cfg)
    kind = "" if keys.PRESET == DEFAULT else f"-{keys.PRESET}"
    name = f"v{FORMAT_VERSION}{kind}-{split}-size{keys.SIZE}-num{number}-seed{keys.SEED}"
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return cache_folder(keys.ROOT) / "shapes" / f"{name}-{mark}"


def render_shapes(cfg: CfgNode, split: str) -> Path:
    """Renders a split unless it exists; returns its folder. Several processes may call it at once.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folder = shapes_split(cfg, split)
    make_folder_once(
        folder, lambda partial: _render_to(partial, cfg, split, folder), is_whole=_is_whole, remedy=ROOT_REMEDY
    )
    return folder


def _is_whole(folder: Path) -> bool:
    """The JSON file is written last and the folder is then renamed, so a part can only result from deletions by hand."""
    try:
        content = json.loads((folder / ANNOTATIONS).read_bytes())
    except (OSError, ValueError):
        return False
    present = set(os.listdir(folder))
    return all(image["file_name"] in present for image in content["images"])


def _render_to(partial: Path, cfg: CfgNode, split: str, folder: Path) -> None:
    """Writes the files of a split to `partial`, which becomes `folder`."""
    keys = cfg.DATASETS.SHAPES
    number, preset = keys.NUM_TRAIN if split == "train" else keys.NUM_VAL, preset_of(cfg)
    logger.info("Rendering %d scenes of %d x %d pixels to %s", number, keys.SIZE, keys.SIZE, folder)
    content = _coco_frame(preset)
    for index in range(number):
        seed = derive_seed(FORMAT_VERSION, keys.SEED, SPLITS.index(split), index)
        scene = preset.render(keys.SIZE, np.random.default_rng(seed))
        file_name = f"{index + 1:06d}.png"
        (partial / file_name).write_bytes(_png(scene.image))
        content["images"].append({"id": index + 1, "file_name": file_name, "height": keys.SIZE, "width": keys.SIZE})
        for figure in scene.figures:
            annotation = {"id": len(content["annotations"]) + 1, "image_id": index + 1, **_annotation(figure)}
            content["annotations"].append(annotation)
    (partial / ANNOTATIONS).write_text(json.dumps(content, sort_keys=True), encoding="utf-8")


def _coco_frame(preset: Preset) -> dict[str, Any]:
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(preset.classes)]
    info = {"description": f"adet_iuq shapes, format {FORMAT_VERSION}"}
    return {"info": info, "licenses": [], "categories": categories, "images": [], "annotations": []}


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def _annotation(figure: Figure) -> dict[str, Any]:
    """A polygon if that is exactly the visible part; otherwise (holes, hidden or cut parts) a compressed RLE."""
    rle = mask_util.encode(np.asfortranarray(figure.visible.astype(np.uint8)))
    size = figure.visible.shape[0]
    inside = bool(np.all((figure.polygon >= 0) & (figure.polygon <= size)))
    segmentation: Any
    if inside and np.array_equal(rasterize(figure.polygon, size), figure.visible):
        segmentation = [figure.polygon.reshape(-1).tolist()]
    else:
        segmentation = {"size": [size, size], "counts": rle["counts"].decode("ascii")}
    return {
        "category_id": figure.look.label + 1,
        "iscrowd": 0,
        "area": int(figure.visible.sum()),
        "bbox": [float(value) for value in mask_util.toBbox(rle)],
        "segmentation": segmentation,
    }
