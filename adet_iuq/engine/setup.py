"""From the command line to a frozen config, with logging, seeds and sound data sets."""

import argparse
import logging
import os
import tempfile

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from adet_iuq.config import load_config
from adet_iuq.data import ensure_datasets_sound, fill_class_counts, register_datasets
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """The run's frozen config; the log and a copy of the config are in OUTPUT_DIR afterwards.

    Data sets are registered, class counts filled from them, random numbers seeded with SEED + rank, and, before a
    training, the data sets checked.

    Args:
        args: with `config_file`, `opts` and `eval_only`.

    Raises:
        UserError: the config, OUTPUT_DIR or a data set is unusable.
    """
    loaded = load_config(args.config_file or None, args.opts)
    cfg = loaded.cfg
    fell_back = choose_device(cfg, user_set="MODEL.DEVICE" in loaded.explicit)
    register_datasets(cfg)
    fill_class_counts(cfg, loaded.explicit)
    cfg.freeze()
    if comm.is_main_process():
        ensure_writable(cfg.OUTPUT_DIR)
    # detectron2 sets up its own and fvcore's loggers only.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="adet_iuq")
    default_setup(cfg, args)
    if fell_back:
        logger.info("No CUDA device was found: this run uses the CPU.")
    if not args.eval_only:
        ensure_datasets_sound(cfg)
    return cfg


def choose_device(cfg: CfgNode, user_set: bool) -> bool:
    """Puts MODEL.DEVICE to "cpu" where the default "cuda" is not there; returns whether it did.

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


def ensure_writable(folder: str) -> None:
    """Creates a folder and writes a file there, once.

    Raises:
        UserError: either fails.
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
