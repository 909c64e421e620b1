"""Checks the data sets before a training or an evaluation: once, in the first process, and again only after a change."""

import json
import logging
import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from adet_iuq.config.deep_images import check_rule
from adet_iuq.data.annotations.checker import check_coco_json
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.sanitize import VERSION
from adet_iuq.data.cache import cache_folder, file_identity, folders_unchanged
from adet_iuq.data.registration.datasets import missing_hint, register_datasets, source_of
from adet_iuq.data.seeding import derive_seed
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)

# The number of images of a set whose headers are read at the start, which takes some seconds. In a larger set the
# reader judges each image when it is needed, in the same words, and tools/check_dataset.py judges all of them.
MOST_HEADERS = 20_000
_VERSION = 6  # to be raised when the check of the images finds more


def ensure_datasets_sound(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Refuses data sets of DATASETS.TRAIN and DATASETS.TEST with fatal flaws, and logs other flaws.

    Every process must call it; rank 0 checks, and all get its verdict. A data set that passed is not checked again
    until its JSON file or a folder with its images changes. DATASETS.CHECK False turns the check off.

    Args:
        cfg: the config, whose data sets are registered.
        eval_only: whether only DATASETS.TEST is checked, because nothing is trained on.

    Raises:
        UserError: a data set has a fatal flaw. Every rank raises it, with the words of tools/check_dataset.py.
    """
    register_datasets(cfg)
    if not cfg.DATASETS.CHECK:
        return
    verdict: str | None = None
    if comm.is_main_process():
        try:
            rule = check_rule(cfg.INPUT.DEEP_IMAGES)
            trained = () if eval_only else cfg.DATASETS.TRAIN
            for name in dict.fromkeys([*trained, *cfg.DATASETS.TEST]):
                # An evaluation replaces no images.
                skip = cfg.GUARD.SKIP_CORRUPT_IMAGES > 0 and name not in cfg.DATASETS.TEST
                check_registered(name, training=name in trained, deep_images=rule, skip_unreadable=skip)
        except UserError as error:
            verdict = str(error)
        except Exception as error:  # the other ranks wait for a verdict
            logger.exception("The check failed.")
            verdict = f"The check of the data sets failed with {type(error).__name__}: {error}."
    verdict = comm.all_gather(verdict)[0]
    if verdict is not None:
        raise UserError(verdict)


def check_registered(name: str, *, training: bool, deep_images: str = "dtype", skip_unreadable: bool = False) -> None:
    """Checks one registered data set, unless it passed before; logs warnings.

    Args:
        name: the name of the data set.
        training: whether the data set is trained on.
        deep_images: INPUT.DEEP_IMAGES.
        skip_unreadable: whether a training replaces images that cannot be read, as for `check_coco_json`.

    Raises:
        UserError: the data set has a fatal flaw.
    """
    source = source_of(name)
    if source is None:
        logger.info("Data set '%s' does not come as a COCO-format JSON file; it is not checked.", name)
        return
    json_file, image_root, stock = source
    if not os.path.exists(json_file):
        raise UserError(f"Data set '{name}': JSON file {json_file} does not exist. {missing_hint(name)}")
    stamp = _stamp(json_file, image_root, stock, training, deep_images, skip_unreadable)
    known = _read(stamp)
    if known is not None:
        if known:
            logger.info("Data set '%s' passed the check before, with warnings (%s).", name, known)
        return
    logger.info("Checking data set '%s' (%s) ...", name, json_file)
    # Reading every header of COCO takes minutes on a cold disk, and its sizes are known to be right.
    report = check_coco_json(
        json_file,
        image_root,
        stock=stock,
        image_sizes=not stock,
        most_images=MOST_HEADERS,
        training=training,
        deep_images=deep_images,
        skip_unreadable=skip_unreadable,
    )
    report.raise_if_fatal()
    if report.problems:
        logger.warning("Data set '%s':\n%s", name, report.text())
    _write(stamp, report)


def _stamp(
    json_file: str, image_root: str, stock: bool, training: bool, deep_images: str, skip_unreadable: bool
) -> Path:
    """The file that keeps the verdict. The times of the image folders, which only the check knows, are in its content."""
    path, mtime, size = file_identity(json_file)
    place = f"{path}\n{os.path.abspath(image_root)}\n{deep_images}".encode()
    mark = derive_seed(_VERSION, VERSION, mtime, size, stock, training, skip_unreadable, *place)
    return cache_folder() / "checks" / f"{mark:016x}.json"


def _read(stamp: Path) -> str | None:
    """The warnings of the kept verdict, if it is whole and no folder of images has changed since."""
    try:
        content = json.loads(stamp.read_bytes())
        return str(content["warnings"]) if folders_unchanged(content["folders"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(stamp: Path, report: Report) -> None:
    kinds = ", ".join(f"{problem.count} x {problem.kind}" for problem in report.problems.values())
    content = {
        "json_file": report.json_file,
        "image_root": report.image_root,
        "folders": report.folders,
        "warnings": kinds,
    }
    try:
        replace_file(stamp, lambda file: file.write(json.dumps(content).encode()))
    except UserError as error:
        logger.warning("The verdict cannot be kept in %s (%s); the next run checks again.", stamp.parent, error)
