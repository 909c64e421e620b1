"""The check before a training: once, by the first process, and not again until something changes."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from adet_iuq.data.annotations.checker import check_coco_json
from adet_iuq.data.annotations.numbers import sorted_ids
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.sanitize import VERSION
from adet_iuq.data.cache import cache_folder, file_identity, folder_time
from adet_iuq.data.registration.datasets import leave_out, missing_hint, register_datasets, source_of, used_names
from adet_iuq.data.seeding import derive_seed
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)

_VERSION = 3  # raise it when the look at the images finds more


def ensure_datasets_sound(cfg: CfgNode) -> None:
    """Refuses data sets of DATASETS.TRAIN and DATASETS.TEST with fatal flaws; logs the others' flaws.

    From then on `load_dataset` passes over the images of another size than their entry says, on every rank.

    Every process must call it; rank 0 looks, all get its verdict. A data set that passed is not looked at again until its
    JSON file or a folder with its images changes. DATASETS.CHECK False turns this off.

    Raises:
        UserError: with the same words as tools/check_dataset.py, on every rank.
    """
    register_datasets(cfg)
    names = used_names(cfg)
    for name in names:
        leave_out(name, ())
    if not cfg.DATASETS.CHECK:
        return
    verdict: str | None = None
    disagreeing: dict[str, list[Any]] = {}
    if comm.is_main_process():
        try:
            disagreeing = {name: check_registered(name, training=name in cfg.DATASETS.TRAIN) for name in names}
        except UserError as error:
            verdict = str(error)
        except Exception as error:  # the other ranks wait for a verdict
            logger.exception("The check failed.")
            verdict = f"The check of the data sets failed with {type(error).__name__}: {error}."
    verdict, disagreeing = comm.all_gather((verdict, disagreeing))[0]
    if verdict is not None:
        raise UserError(verdict)
    for name, ids in disagreeing.items():
        leave_out(name, ids)
        if ids:
            logger.warning("Data set '%s': %d images whose size disagrees are left out.", name, len(ids))


def check_registered(name: str, *, training: bool) -> list[Any]:
    """Checks one registered data set, unless it passed before; logs warnings.

    Returns:
        ids of the images whose size is not what their entry says.

    Raises:
        UserError: it has a fatal flaw.
    """
    source = source_of(name)
    if source is None:
        logger.info("Data set '%s' does not come as a COCO-format JSON file; it is not checked.", name)
        return []
    json_file, image_root, stock = source
    if not os.path.exists(json_file):
        raise UserError(f"Data set '{name}': JSON file {json_file} does not exist. {missing_hint(name)}")
    stamp = _stamp(json_file, image_root, stock, training)
    known = _read(stamp)
    if known is not None:
        if known["warnings"]:
            logger.info("Data set '%s' passed the check before, with warnings (%s).", name, known["warnings"])
        return list(known["disagreeing"])
    logger.info("Checking data set '%s' (%s) ...", name, json_file)
    # Reading every header of COCO takes minutes on a cold disk, and its sizes are known to be right.
    report = check_coco_json(json_file, image_root, stock=stock, image_sizes=not stock, training=training)
    report.raise_if_fatal()
    if report.problems:
        logger.warning("Data set '%s':\n%s", name, report.text())
    _write(stamp, report)
    return sorted_ids(report.disagreeing)


def _stamp(json_file: str, image_root: str, stock: bool, training: bool) -> Path:
    """Where the verdict is kept; the times of the image folders, which only the check knows, stand inside."""
    path, mtime, size = file_identity(json_file)
    place = f"{path}\n{os.path.abspath(image_root)}".encode()
    mark = derive_seed(_VERSION, VERSION, mtime, size, stock, training, *place)
    return cache_folder() / "checks" / f"{mark:016x}.json"


def _read(stamp: Path) -> dict[str, Any] | None:
    """The kept verdict, if it is whole and no image has come or gone since: that changes the time of its folder."""
    try:
        content = json.loads(stamp.read_bytes())
        fresh = all(folder_time(folder) == time for folder, time in content["folders"].items())
        return {"warnings": str(content["warnings"]), "disagreeing": list(content["disagreeing"])} if fresh else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(stamp: Path, report: Report) -> None:
    kinds = ", ".join(f"{problem.count} x {problem.kind}" for problem in report.problems.values())
    content = {
        "json_file": report.json_file,
        "image_root": report.image_root,
        "folders": report.folders,
        "disagreeing": sorted_ids(report.disagreeing),
        "warnings": kinds,
    }
    try:
        replace_file(stamp, lambda file: file.write(json.dumps(content).encode()))
    except UserError as error:
        logger.warning("The verdict cannot be kept in %s (%s); the next run checks again.", stamp.parent, error)
