"""Turns a command line into a frozen config, and prepares logging, seeds and data sets."""

import argparse
import atexit
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from adet_iuq.config import AddConfig, import_projects, load_config
from adet_iuq.config.defaults import each
from adet_iuq.data import ensure_datasets_sound, fill_class_counts, register_datasets
from adet_iuq.data.registration.announcement import describe_folders
from adet_iuq.data.registration.class_names import TrainedClasses
from adet_iuq.data.registration.crowding import warn_of_crowded_images
from adet_iuq.engine.console import IN_LOG_ONLY, print_for_people
from adet_iuq.engine.description import trained_classes
from adet_iuq.errors import UserError
from adet_iuq.evaluation.backends import find_backend

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace, add_config: AddConfig | Sequence[AddConfig] = ()) -> CfgNode:
    """The run's frozen config. From then on the log goes to OUTPUT_DIR.

    It imports the projects of the command line, so that every process of the run knows what they register. It registers the
    data sets, fills in class counts from them, seeds random numbers with SEED + rank, and checks the data sets (before an
    evaluation only those of DATASETS.TEST). detectron2's default_setup does not fit: it would overwrite the config.yaml of
    an earlier run in OUTPUT_DIR before it is known that this run can start. The trainer writes that file.

    Args:
        args: the result of `argument_parser`, or of detectron2's parser, which has no projects.
        add_config: one or several functions f(cfg) that add keys of their own, besides those of the projects.

    Raises:
        UserError: a project, the config, OUTPUT_DIR, TEST.EVAL_BACKEND or a data set is unusable; or the classes of the
            data sets differ from each other or, in an evaluation or a resumed run, from those of the weights.
    """
    loaded = load_config(
        args.config_file or None, args.opts, [*import_projects(_option(args, "project", ())), *each(add_config)]
    )
    cfg = loaded.cfg
    find_backend(cfg.TEST.EVAL_BACKEND)  # a missing package must not come to light after the training
    fell_back = choose_device(cfg, user_set="MODEL.DEVICE" in loaded.explicit)
    ensure_writable(cfg.OUTPUT_DIR)  # on every rank, because each has its own log there
    for name in ("fvcore", "detectron2", "adet_iuq"):  # before the data sets, whose messages belong in the log
        log = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
        print_for_people(log)
        survive_full_disk(log)
    register_datasets(cfg)
    fill_class_counts(cfg, loaded.overridden, _starting_classes(cfg, args))
    cfg.freeze()
    rank, ranks = comm.get_rank(), comm.get_world_size()
    logger.info("Process %d of %d. Environment:\n%s", rank, ranks, collect_env_info(), extra=IN_LOG_ONLY)
    logger.info("Command line: %s", args, extra=IN_LOG_ONLY)
    why_resumed = _option(args, "why_resumed", "")
    if why_resumed:
        logger.info(why_resumed)
    crowding = _option(args, "crowding", "")
    if crowding and comm.is_main_process():
        logger.warning(crowding)
    logger.info("Config:\n%s", cfg.dump(), extra=IN_LOG_ONLY)
    if fell_back:
        logger.info("No CUDA device was found: this run uses the CPU.")
    if comm.is_main_process():
        for text in describe_folders(cfg):
            logger.info(text)
        warn_of_crowded_images(cfg)
    seed_all_rng(cfg.SEED + comm.get_rank() if cfg.SEED >= 0 else None)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    ensure_datasets_sound(cfg, eval_only=args.eval_only)
    return cfg


def _starting_classes(cfg: CfgNode, args: argparse.Namespace) -> TrainedClasses | None:
    """The classes of the checkpoint that the run resumes, evaluates or starts from, if they are known."""
    last = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    if args.resume and last.is_file():
        return trained_classes(str(last), binding=True)
    return trained_classes(cfg.MODEL.WEIGHTS, binding=args.eval_only)


def _option(args: argparse.Namespace, name: str, default: Any) -> Any:
    """The value of an option that only this project's parser has."""
    return vars(args).get(name, default)


def choose_device(cfg: CfgNode, user_set: bool) -> bool:
    """Sets MODEL.DEVICE to "cpu" if the default "cuda" does not exist; returns whether it did.

    Raises:
        UserError: the user asked for CUDA and there is none.
    """
    if not cfg.MODEL.DEVICE.startswith("cuda") or torch.cuda.is_available():
        return False
    if user_set:
        raise UserError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch {torch.__version__} finds no CUDA device. "
            "Leave MODEL.DEVICE out (the CPU is then used), or install a CUDA build of PyTorch."
        )
    cfg.MODEL.DEVICE = "cpu"
    return True


def survive_full_disk(log: logging.Logger) -> None:
    """Makes a log ignore that it cannot be written, instead of printing a traceback for every line."""
    for handler in log.handlers:
        handler.handleError = _skip_disk_error.__get__(handler)  # type: ignore[method-assign]
        if isinstance(handler, logging.StreamHandler) and handler.stream not in (sys.stdout, sys.stderr):
            # atexit runs it before detectron2's own function, which would end the program with a traceback.
            atexit.register(_close_quietly, handler.stream)


def _skip_disk_error(handler: logging.Handler, record: logging.LogRecord) -> None:
    if not isinstance(sys.exc_info()[1], OSError):
        logging.Handler.handleError(handler, record)


def _close_quietly(stream: IO[str]) -> None:
    with contextlib.suppress(OSError):
        stream.close()


def ensure_writable(folder: str) -> None:
    """Creates a folder and writes a file there, once.

    Raises:
        UserError: the folder cannot be created or written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"OUTPUT_DIR {os.path.abspath(folder)} cannot be written: {error.strerror or error}. "
            "Name another folder: OUTPUT_DIR path/to/folder."
        ) from error
