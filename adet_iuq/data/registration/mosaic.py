"""Mosaics of a test set: four of its images side by side, which reveal queries that are not unique across scenes.

The mask of such a query leaks into another tile, or it finds an object of another tile again. A mosaic is an image of an
ordinary COCO-format data set whose images also have `tiles`, the rectangles [x0, y0, x1, y1) in pixels that divide it.

A tile is as high and as wide as the highest and the widest of its four images. Images are not stretched, as that would
change the objects, and not cut, as that would change the ground truth. Each lies in the upper left corner of its tile;
the rest of the tile has the image's mean colour. Masks are written as run lengths, so that every pixel of them is kept.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from adet_iuq.config.deep_images import check_rule
from adet_iuq.data.annotations.coco_json import load_coco_records, read_categories, read_sanitized
from adet_iuq.data.annotations.evaluation_json import sortable
from adet_iuq.data.annotations.segmentation import to_rle
from adet_iuq.data.cache import cache_folder, file_identity, folder_time, make_folder_once
from adet_iuq.data.images.reading import read_record
from adet_iuq.data.registration.datasets import load_dataset, register_datasets, source_of
from adet_iuq.data.seeding import derive_seed
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

TILES = 4
EVALUATOR_TYPE = "coco_mosaic"
_VERSION = 3  # to be raised with every change to what is written
_ANNOTATIONS = "annotations.json"


def evaluated_sets(cfg: CfgNode) -> tuple[str, ...]:
    """The data sets of an evaluation: DATASETS.TEST and, if TEST.MOSAIC asks for them, the mosaics of its COCO-type sets,
    `<name>_mosaic`."""
    return (*cfg.DATASETS.TEST, *map(_mosaic_name, _sources(cfg)))


def mosaic_config(cfg: CfgNode) -> CfgNode:
    """The config with which mosaics are evaluated. They are registered here, and made unless the cache has them.

    DATASETS.TEST names the mosaics (possibly none), and the test size is doubled, so that objects keep their scale
    (apart from the padding, if a set's images differ in size).

    Raises:
        UserError: a data set has no annotations or cannot be read; the cache cannot be written.
    """
    seed, deep_images = cfg.TEST.MOSAIC.SEED, cfg.INPUT.DEEP_IMAGES
    mosaics = tuple(register_mosaics(name, seed, deep_images) for name in _sources(cfg))
    result = cfg.clone()
    result.defrost()
    result.DATASETS.TEST = mosaics
    result.INPUT.MIN_SIZE_TEST, result.INPUT.MAX_SIZE_TEST = 2 * cfg.INPUT.MIN_SIZE_TEST, 2 * cfg.INPUT.MAX_SIZE_TEST
    result.freeze()
    return result


def register_mosaics(name: str, seed: int, deep_images: str = "dtype") -> str:
    """Makes the mosaics of a registered data set known to detectron2's catalogs; returns their name.

    Every process may call it: the first one makes them, and the others wait.

    Raises:
        UserError: `make_mosaics` fails, or the name is taken.
    """
    folder, mosaics = make_mosaics(name, seed, deep_images), _mosaic_name(name)
    json_file = str(folder / _ANNOTATIONS)
    if mosaics in DatasetCatalog:
        if MetadataCatalog.get(mosaics).get("evaluator_type") != EVALUATOR_TYPE:
            raise UserError(f"The name '{mosaics}', which TEST.MOSAIC needs, is taken: rename it in DATASETS.REGISTER.")
        DatasetCatalog.remove(mosaics)
        MetadataCatalog.remove(mosaics)
    DatasetCatalog.register(mosaics, lambda: load_coco_records(json_file, str(folder)))
    numbers = read_categories(json_file, str(folder))[1]
    MetadataCatalog.get(mosaics).set(
        json_file=json_file,
        image_root=str(folder),
        evaluator_type=EVALUATOR_TYPE,
        thing_classes=MetadataCatalog.get(name).thing_classes,
        thing_dataset_id_to_contiguous_id=numbers,
    )
    return mosaics


def make_mosaics(name: str, seed: int, deep_images: str = "dtype") -> Path:
    """Writes the mosaics of a registered COCO-type data set, unless the cache has them; returns their folder.

    Args:
        name: the name of the data set.
        seed: determines which images are combined.
        deep_images: INPUT.DEEP_IMAGES; mosaics have 8 bits.

    Raises:
        UserError: the data set has no annotations, one of its files cannot be read, or the cache cannot be written.
    """
    source = source_of(name)
    if source is None:
        raise UserError(
            f"Data set '{name}' does not come as one COCO-format file: TEST.MOSAIC cannot make mosaics of it."
        )
    json_file, image_root, stock = source
    path, mtime, size = file_identity(json_file)
    place = f"{path}\n{image_root}\n{check_rule(deep_images)}".encode()
    mark = derive_seed(_VERSION, seed, mtime, size, folder_time(image_root), *place)
    folder = cache_folder() / "mosaic" / f"{name.replace('/', '_')}-{mark:016x}"

    def fill(partial: Path) -> None:
        content = sortable(read_sanitized(json_file, image_root, stock=stock)[0], "categories", "category_id")
        if "annotations" not in content:
            raise UserError(f"Data set '{name}' has no annotations, so TEST.MOSAIC cannot evaluate mosaics of it.")
        logger.info("Making mosaics of '%s' in %s", name, folder)
        _write_mosaics(partial, load_dataset(name), content, seed, deep_images)

    make_folder_once(folder, fill)
    return folder


def groups_of_four(count: int, seed: int) -> npt.NDArray[np.int64]:
    """Groups of `count` images, (ceil(count / 4), 4): a shuffle, whose beginning also fills up the last mosaic."""
    order = np.random.default_rng(derive_seed(seed)).permutation(count)
    return np.resize(order, (-(-count // TILES), TILES))


def _sources(cfg: CfgNode) -> list[str]:
    if not cfg.TEST.MOSAIC.ENABLED:
        return []
    register_datasets(cfg)
    return [name for name in cfg.DATASETS.TEST if MetadataCatalog.get(name).get("evaluator_type") == "coco"]


def _mosaic_name(name: str) -> str:
    return f"{name}_mosaic"


def _write_mosaics(
    folder: Path, records: Sequence[dict[str, Any]], content: dict[str, Any], seed: int, deep_images: str
) -> None:
    """Writes the images and the JSON file of the mosaics.

    Args:
        folder: the folder to write to.
        records: the records of the data set, for the images.
        content: the content of its JSON file, for everything that the evaluation reads of an annotation.
        seed: the seed of the shuffle.
        deep_images: INPUT.DEEP_IMAGES.
    """
    annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    images: list[dict[str, Any]] = []
    moved: list[dict[str, Any]] = []
    for number, group in enumerate(groups_of_four(len(records), seed), start=1):
        read = [read_record(records[index], "RGB", deep_images) for index in group]
        four = [record for _, record in read]
        height, width = (max(record[side] for record in four) for side in ("height", "width"))
        tiles = [[x, y, x + width, y + height] for y in (0, height) for x in (0, width)]
        picture = np.empty((2 * height, 2 * width, 3), dtype=np.uint8)
        for (image, record), (x0, y0, x1, y1) in zip(read, tiles, strict=True):
            picture[y0:y1, x0:x1] = image.mean(axis=(0, 1)).round()
            picture[y0 : y0 + image.shape[0], x0 : x0 + image.shape[1]] = image
            for annotation in annotations[record["image_id"]]:
                place = _moved(annotation, record, (x0, y0), picture.shape[:2])
                moved.append({**annotation, **place, "id": len(moved) + 1, "image_id": number})
        file_name = f"{number:06d}.png"
        Image.fromarray(picture).save(folder / file_name, compress_level=1)
        size = {"height": 2 * height, "width": 2 * width}
        sources = [record["image_id"] for record in four]
        images.append({"id": number, "file_name": file_name, **size, "tiles": tiles, "source_ids": sources})
    result = {"categories": content.get("categories", []), "images": images, "annotations": moved}
    (folder / _ANNOTATIONS).write_text(json.dumps(result), encoding="utf-8")


def _moved(
    annotation: dict[str, Any], record: dict[str, Any], corner: tuple[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    """The box and mask of an annotation whose image lies at `corner` (x, y) of a mosaic of `size` (height, width)."""
    (x0, y0), (height, width) = corner, (record["height"], record["width"])
    mask = np.zeros(size, dtype=np.uint8, order="F")
    mask[y0 : y0 + height, x0 : x0 + width] = mask_util.decode(to_rle(annotation["segmentation"], height, width))
    rle = mask_util.encode(mask)
    left, top, *sides = annotation["bbox"]
    return {
        "bbox": [x0 + left, y0 + top, *sides],
        "segmentation": {"size": list(size), "counts": rle["counts"].decode("ascii")},
    }
