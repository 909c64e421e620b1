"""Turns a user's choice (a YAML file, a recipe, the folder of a run) into the frozen config of a predictor."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode

from adet_iuq.config import AddConfig, find_recipe, load_config
from adet_iuq.data import fill_class_counts
from adet_iuq.engine.description import CONFIG_FILE, read_class_names, trained_classes
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

FINAL_WEIGHTS = "model_final.pth"
AUTO = "auto"


def find_config(config_or_name: str, weights: str = "") -> tuple[str, str]:
    """The paths of a config file and of its weights.

    Args:
        config_or_name: the path of a YAML file, the name of a packaged one such as "CondInst/R50_1x_iuq.yaml", or the folder
            of a finished run.
        weights: the path of the weights; empty: those of the run.

    Raises:
        UserError: there is no such file or recipe, or there are no weights.
    """
    path = Path(config_or_name).expanduser()
    if path.is_dir():
        return _of_run(path, weights)
    try:
        found = find_recipe(config_or_name)
    except UserError as error:
        raise UserError(f"{config_or_name} is not the folder of a run. {error}") from error
    if not weights:
        raise UserError(
            f"No weights: name the weights for {found} with --weights. Only the folder of a finished run has weights of its "
            "own."
        )
    return found, weights


def _of_run(folder: Path, weights: str) -> tuple[str, str]:
    config, own = folder / CONFIG_FILE, folder / FINAL_WEIGHTS
    if not config.is_file():
        raise UserError(f"{folder} is no folder of a run: it has no {CONFIG_FILE}.")
    if weights or own.is_file():
        return str(config), weights or str(own)
    others = sorted(file.name for file in folder.glob("*.pth"))
    has = (
        f"It has {', '.join(others)}: name one of them as the weights." if others else "It has no other weights either."
    )
    raise UserError(f"{folder} has no {FINAL_WEIGHTS}: the run is not finished. {has}")


def inference_config(
    config_file: str,
    weights: str,
    opts: Sequence[str] = (),
    add_config: AddConfig | Sequence[AddConfig] = (),
    device: str = AUTO,
) -> CfgNode:
    """A frozen config for predicting with `weights`. Nothing is written.

    If the config's data sets are not on this machine, the class names beside the weights are used, and the config must
    give its NUM_CLASSES, as the config.yaml of a training does.

    Args:
        config_file: the path of the config file.
        weights: the path of the weights.
        opts: overrides, KEY and VALUE in turn.
        add_config: functions that add keys, as for `load_config`.
        device: a device by torch's name; "auto": MODEL.DEVICE of `opts`, else CUDA if there is one, else the CPU. The
            file's device is that of the training, which need not exist here.

    Raises:
        UserError: the config is wrong, neither the data sets nor `weights` name its classes, or there is no such device.
    """
    loaded = load_config(config_file, [*opts, "MODEL.WEIGHTS", weights], add_config)
    cfg = loaded.cfg
    if device != AUTO or "MODEL.DEVICE" not in loaded.overridden:
        cfg.MODEL.DEVICE = _default_device() if device == AUTO else device
    check_device(cfg.MODEL.DEVICE)
    cfg.MODEL.TIMM.PRETRAINED = False  # `weights` holds the whole model, so nothing need be downloaded
    try:
        fill_class_counts(cfg, loaded.overridden, trained_classes(weights, binding=True))
    except UserError as error:
        if read_class_names(weights) is None:
            raise
        logger.warning("Classes are taken from the file beside the weights: %s", error)
        cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], (), ()
    cfg.freeze()
    return cfg


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Refuses a device that PyTorch does not have here.

    Raises:
        UserError: there is no device of this name.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"Device {device!r} is not known to PyTorch; name cpu, cuda or cuda:1, for example.") from error
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise UserError(
            f"Device {device!r}: PyTorch {torch.__version__} finds {count} CUDA device(s) here. Leave the device out to use "
            "what there is."
        )
