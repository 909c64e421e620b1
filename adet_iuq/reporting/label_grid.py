"""The label grid: the first training images with their masks, as the mapper gives them to the network.

It shows at a glance what goes wrong between a data set and the network: masks beside their objects, classes under other
names, swapped colours, objects that are cut away or shrunk to nothing.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Instances

from adet_iuq.data import TrainLoader, seeded
from adet_iuq.files import replace_file
from adet_iuq.reporting.pictures import Image, shrunk, shrunk_mask
from adet_iuq.visualization import Drawing, draw
from adet_iuq.visualization.instances import class_name

logger = logging.getLogger(__name__)

GRID_FILE = "label_grid.jpg"
_TILE = 512  # pixels; network inputs up to this size are drawn at their own size
_COLUMNS = 4
_GAP, _CAPTION = 6, 20  # pixels
_PAPER = 255


def write_label_grid(loader: Iterable[Any], cfg: CfgNode) -> None:
    """Writes OUTPUT_DIR/label_grid.jpg from the run's first samples, or says in one line why it cannot.

    The training reads and draws the same as without it: the samples are mapped once more, each with its own seed.

    Args:
        loader: the training loader, which knows where it starts.
        cfg: the config, of which REPORT.LABEL_GRID is the number of images.
    """
    try:
        with seeded(0):  # restores the random states, whatever a mapper does
            samples = loader.first_samples(cfg.REPORT.LABEL_GRID) if isinstance(loader, TrainLoader) else None
            if samples is None:
                what = (
                    "mapper is no adet_iuq.data.SampleMapper"
                    if isinstance(loader, TrainLoader)
                    else "loader is foreign"
                )
                logger.info(
                    "No %s: the training's %s, and one look at its samples might change the run.", GRID_FILE, what
                )
                return
            picture = label_grid(samples, _class_names(cfg), cfg.INPUT.FORMAT)
        content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        replace_file(Path(cfg.OUTPUT_DIR) / GRID_FILE, lambda file: file.write(content))
    except Exception as error:  # a training must not end because of a picture
        logger.warning("No %s: %s: %s", GRID_FILE, type(error).__name__, error)


def label_grid(samples: Iterable[dict[str, Any]], names: Sequence[str], image_format: str) -> Image:
    """Tiles in rows of four, each under a line with the size of its network input and the number of its objects.

    Args:
        samples: a mapper's samples: `image` (3, H, W) uint8, `instances` with gt_classes, gt_boxes, gt_masks (BitMasks).
        names: the names of the classes.
        image_format: INPUT.FORMAT, the order of the image's channels.

    Returns:
        The grid (H, W, 3) uint8 in BGR.

    Raises:
        ValueError: there is no sample.
    """
    tiles = [_tile(sample, names, image_format) for sample in samples]
    if not tiles:
        raise ValueError("no sample could be read")
    height, width = (max(tile.shape[side] for tile in tiles) for side in (0, 1))
    tiles = [_padded(tile, height, width) for tile in tiles]
    empty = np.full_like(tiles[0], _PAPER)
    columns = min(_COLUMNS, len(tiles))
    tiles += [empty] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def _tile(sample: dict[str, Any], names: Sequence[str], image_format: str) -> Image:
    pixels = sample["image"].permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    image = shrunk(np.ascontiguousarray(pixels[:, :, ::-1] if image_format == "RGB" else pixels), _TILE)
    picture = draw(image, _drawing(sample["instances"], names, image.shape[:2]))
    header = np.full((_CAPTION, picture.shape[1], 3), _PAPER, dtype=np.uint8)
    caption = f"{width} x {height}, {len(sample['instances'])} objects"
    cv2.putText(header, caption, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([header, picture])


def _drawing(instances: Instances, names: Sequence[str], size: tuple[int, ...]) -> Drawing:
    masks = instances.gt_masks
    assert isinstance(masks, BitMasks), type(masks)
    classes = instances.gt_classes.numpy()
    scale = np.array([size[1] / instances.image_size[1], size[0] / instances.image_size[0]] * 2)
    small = [shrunk_mask(mask.numpy().astype(np.uint8), (size[0], size[1])) for mask in masks.tensor]
    return Drawing(
        boxes=instances.gt_boxes.tensor.numpy() * scale,
        masks=np.stack(small) if small else None,
        classes=classes,
        labels=[class_name(names, int(one)) for one in classes],
    )


def _padded(tile: Image, height: int, width: int) -> Image:
    below, right = height - tile.shape[0] + _GAP, width - tile.shape[1] + _GAP
    return np.pad(tile, ((0, below), (0, right), (0, 0)), constant_values=_PAPER)


def _class_names(cfg: CfgNode) -> list[str]:
    """The classes of the first training set; a panoptic set names things and stuff together as `stuff_classes`."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return max((list(metadata.get(kind) or []) for kind in ("thing_classes", "stuff_classes")), key=len)
