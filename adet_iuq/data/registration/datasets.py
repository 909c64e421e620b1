"""Registers data sets: detectron2's COCO and LVIS, the rendered shapes, any COCO-format JSON file or folder of a user."""

import difflib
import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import detectron2.data.datasets.builtin  # noqa: F401  registers COCO, LVIS and others below DETECTRON2_DATASETS
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from adet_iuq.data.annotations.coco_json import load_coco_records, read_categories
from adet_iuq.data.annotations.digest_cache import digest_of
from adet_iuq.data.annotations.panoptic import add_sizes, register_coco_panoptic
from adet_iuq.data.annotations.parsing import json_error_text
from adet_iuq.data.annotations.records import Records
from adet_iuq.data.registration.entries import folder_hint, own_sets
from adet_iuq.data.shapes.dataset import ANNOTATIONS, render_shapes, shapes_split
from adet_iuq.data.shapes.panoptic import (
    SHAPES_PANOPTIC,
    make_shapes_panoptic,
    shapes_panoptic_loader,
    shapes_panoptic_metadata,
)
from adet_iuq.data.shapes.presets import preset_of
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_SHAPES = {"shapes_train": "train", "shapes_val": "val"}
# Names that this module registered, with their JSON file and image folder (absolute).
_own: dict[str, tuple[str, str]] = {}
# Class names in the order of the model's class numbers, for data sets in which this is not the order of the file's ids.
_class_order: dict[str, tuple[str, ...]] = {}
# The folder of DATASETS.REGISTER in which a data set was found.
_found_in: dict[str, str] = {}
register_coco_panoptic()
_stock = frozenset(DatasetCatalog.list())


def register_datasets(cfg: CfgNode) -> None:
    """Makes every name in DATASETS.TRAIN and DATASETS.TEST known to detectron2's catalogs. It may be called repeatedly.

    COCO (panoptic also under Mask2Former's names) and LVIS come with detectron2, below the folder that the environment
    variable DETECTRON2_DATASETS named when detectron2 was imported. The shapes are rendered here if the config uses
    them. Entries of DATASETS.REGISTER that the config does not use are registered without reading their files; from a
    folder only the data sets are registered that the config uses.

    Raises:
        UserError: an entry of DATASETS.REGISTER is neither a triple nor a folder; its name is taken; its files are
            missing or do not parse; they are named by an environment variable that is not set; the content of a folder
            is unclear; or a name in DATASETS.TRAIN or DATASETS.TEST is unknown.
    """
    used = used_names(cfg)
    register_shapes(cfg)
    for one in own_sets(cfg, used):
        _register(one.name, one.json_file, one.image_root, one.folder)
        if one.name in used:
            _describe(one.name, one.json_file, one.image_root)
    for name in used:
        if name not in DatasetCatalog:
            raise UserError(_unknown_name(name) + folder_hint(cfg, name))


def used_names(cfg: CfgNode) -> list[str]:
    """The data sets of DATASETS.TRAIN and DATASETS.TEST, each of them once.

    Raises:
        UserError: a key is a word instead of a tuple.
    """
    for key in ("TRAIN", "TEST"):
        if isinstance(cfg.DATASETS[key], str):
            raise UserError(f"DATASETS.{key} is the word '{cfg.DATASETS[key]}'; write a tuple: \"('name',)\".")
    return list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))


def register_shapes(cfg: CfgNode) -> None:
    """Registers `shapes_train`, `shapes_val` and their panoptic twins as DATASETS.SHAPES describes them.

    Those that the config uses are rendered. Names that were registered with other parameters are replaced.
    """
    used = used_names(cfg)
    for name, split in _SHAPES.items():
        _register_scenes(name, _shapes_loader(cfg, split), _shapes_metadata(cfg, split))
        if name in used:
            render_shapes(cfg, split)
    for name, split in SHAPES_PANOPTIC.items():
        _register_scenes(name, shapes_panoptic_loader(cfg, split), shapes_panoptic_metadata(cfg, split))
        if name in used:
            make_shapes_panoptic(cfg, split)


def _register_scenes(name: str, load: Callable[[], Sequence[dict[str, Any]]], metadata: dict[str, Any]) -> None:
    paths = (metadata["json_file"], metadata["image_root"])
    if _own.get(name) == paths:
        return
    if name in _own:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)
    _own[name] = paths


def _shapes_metadata(cfg: CfgNode, split: str) -> dict[str, Any]:
    folder, classes = shapes_split(cfg, split), preset_of(cfg).classes
    return {
        "json_file": str(folder / ANNOTATIONS),
        "image_root": str(folder),
        "evaluator_type": "coco",
        "thing_classes": list(classes),
        "thing_dataset_id_to_contiguous_id": {number + 1: number for number in range(len(classes))},
    }


def _shapes_loader(cfg: CfgNode, split: str) -> Callable[[], Records]:
    frozen = cfg.clone()  # the function may run long after this config has changed

    def load() -> Records:
        folder = render_shapes(frozen, split)
        return load_coco_records(str(folder / ANNOTATIONS), str(folder))

    return load


def _register(name: str, json_file: str, image_root: str, folder: str | None) -> None:
    """Makes a data set known. A data set that was found in the same `folder` before, with other files, is replaced."""
    if name in _SHAPES or name in SHAPES_PANOPTIC or name in _stock:
        raise UserError(f"DATASETS.REGISTER: the name '{name}' belongs to a built-in data set; choose another one.")
    if name in _own or name in DatasetCatalog:
        if _own.get(name) == (json_file, image_root):
            return
        if folder is None or _found_in.get(name) != folder:
            there = " and ".join(_own.get(name, ("a data set of another program",)))
            raise UserError(
                f"DATASETS.REGISTER: the name '{name}' already stands for {there}; give {json_file} another name."
            )
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    if folder is not None:
        _found_in[name] = folder
    DatasetCatalog.register(name, lambda: _renumbered(name, load_coco_records(json_file, image_root)))
    _own[name] = (json_file, image_root)


def _describe(name: str, json_file: str, image_root: str) -> None:
    """Sets the metadata of a user's data set: paths and classes."""
    for kind, path, exists in (("JSON file", json_file, os.path.isfile), ("image folder", image_root, os.path.isdir)):
        if not exists(path):
            raise UserError(f"Data set '{name}': the {kind} {path} does not exist. Correct DATASETS.REGISTER.")
    metadata = MetadataCatalog.get(name)
    classes, contiguous = read_categories(json_file, image_root)
    if name in _class_order:
        names, classes = classes, list(_class_order[name])
        contiguous = {category: classes.index(names[number]) for category, number in contiguous.items()}
    evaluator = "lvis" if digest_of(json_file, image_root).digest.is_lvis else "coco"
    if (metadata.get("thing_classes", classes), metadata.get("evaluator_type", evaluator)) != (classes, evaluator):
        MetadataCatalog.remove(name)
        metadata = MetadataCatalog.get(name)
    metadata.set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type=evaluator,
        thing_classes=classes,
        thing_dataset_id_to_contiguous_id=contiguous,
    )


def order_classes(name: str, order: Sequence[str] | None) -> None:
    """Numbers the classes of a registered data set of a user in this order; None: in the order of their ids.

    Args:
        name: the name of the data set.
        order: its class names, which must all be different.
    """
    if order is None:
        _class_order.pop(name, None)
    else:
        _class_order[name] = tuple(order)
    _describe(name, *_own[name])


def _renumbered(name: str, records: Records) -> Records:
    """Converts records from the class numbers of their file to those that `order_classes` has set."""
    if name not in _class_order:
        return records
    names, _ = read_categories(*_own[name])
    return records.renumbered([_class_order[name].index(one) for one in names])


def _unknown_name(name: str) -> str:
    known = [*_own, *_stock]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return (
        f"Data set '{name}' is not known. {hint}For data of your own, add [name, json file, image folder] or "
        "[name, folder] to DATASETS.REGISTER (datasets/README.md)."
    )


def source_of(name: str) -> tuple[str, str, bool] | None:
    """The JSON file (as the user wrote it), the image folder, and whether it is one of detectron2's own data sets.

    None if the data set does not come as one COCO-format JSON file (Cityscapes, for example).

    Raises:
        UserError: the name is unknown.
    """
    if name in _own:
        return (*_own[name], False)
    if name not in DatasetCatalog:
        raise UserError(_unknown_name(name))
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    return None if json_file is None or image_root is None else (str(json_file), str(image_root), True)


def load_dataset(name: str) -> Sequence[dict[str, Any]]:
    """The records of a registered data set, in detectron2's format; those of a COCO-format file are made at each access.

    Raises:
        UserError: the name is unknown; the JSON file is missing, cut off or wrong; or a package is missing.
    """
    if name not in DatasetCatalog:
        raise UserError(_unknown_name(name))
    json_file = MetadataCatalog.get(name).get("json_file", "its JSON file")
    try:
        records: Sequence[dict[str, Any]] = _stock_records(name) or DatasetCatalog.get(name)
    except json.JSONDecodeError as error:
        raise UserError(json_error_text(json_file, error)) from error
    except FileNotFoundError as error:
        raise UserError(
            f"Data set '{name}': {error.filename or json_file} does not exist. {missing_hint(name)}"
        ) from error
    except ModuleNotFoundError as error:
        raise UserError(f"Data set '{name}' needs the Python package {error.name}: pip install {error.name}") from error
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"Data set '{name}': {json_file} cannot be read ({type(error).__name__}: {error}). "
            f"Run python tools/check_dataset.py --json {json_file}"
        ) from error
    if not records:
        raise UserError(f"Data set '{name}': {json_file} lists no images.")
    if "pan_seg_file_name" in records[0] and "height" not in records[0]:
        add_sizes(list(records), MetadataCatalog.get(name).panoptic_json)
    return records


def _stock_records(name: str) -> Records | None:
    """The records of one of detectron2's own COCO sets, which thus load as fast as a user's. None if detectron2's own reader
    must be used: for keypoints, for a file with other classes than its metadata or without annotations, and for errors."""
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    if name not in _stock or metadata.get("evaluator_type") != "coco" or metadata.get("keypoint_names"):
        return None
    if not image_root or not json_file or not os.path.isfile(json_file):
        return None
    digest = digest_of(json_file, image_root, stock=True).digest
    classes = (metadata.get("thing_classes"), metadata.get("thing_dataset_id_to_contiguous_id"))
    if classes != (digest.class_names, digest.class_numbers) or not digest.is_annotated or digest.report.fatal:
        return None
    return load_coco_records(json_file, image_root, stock=True)


def missing_hint(name: str) -> str:
    """The place where the files of a data set are searched, and how to change it."""
    if name in _own:
        return "Correct its paths in DATASETS.REGISTER."
    root = os.environ.get("DETECTRON2_DATASETS")
    place = f"is {root}" if root else "is not set, so ./datasets is searched"
    return f"DETECTRON2_DATASETS {place}; datasets/README.md shows the layout."
