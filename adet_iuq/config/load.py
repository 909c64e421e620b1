"""Merges YAML files and command-line overrides into a config, with errors that a person can act on."""

import logging
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from adet_iuq.config.deep_images import check_rule
from adet_iuq.config.defaults import AddConfig, get_cfg
from adet_iuq.config.detections import spread_detections
from adet_iuq.config.unknown_keys import unknown_key_text
from adet_iuq.config.values import check_values
from adet_iuq.config.yaml_files import leaves, read_yaml
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

# AdelaiDet's keys that its models never read, or whose other values name parts that this project does not have:
# {key: the only accepted value, or None for any}. They are removed with a warning.
IGNORED_KEYS: dict[str, Any] = {
    "MODEL.MOBILENET": False,
    "MODEL.BACKBONE.ANTI_ALIAS": False,
    "MODEL.RESNETS.DEFORM_INTERVAL": None,  # every block of a deformable stage is deformable, as in the published SOTR
    "MODEL.FCOS.USE_DEFORMABLE": False,
    "MODEL.FCOS.INFERENCE_TH_TRAIN": None,  # the three _TRAIN keys are for two-stage models on top of FCOS
    "MODEL.FCOS.PRE_NMS_TOPK_TRAIN": None,
    "MODEL.FCOS.POST_NMS_TOPK_TRAIN": None,
    "MODEL.FCOS.YIELD_PROPOSAL": False,
    "MODEL.FCOS.YIELD_BOX_FEATURES": False,
    "MODEL.FCOS.USE_RELU": None,
    "MODEL.CONDINST.BOTTOM_PIXELS_REMOVED": None,
    "MODEL.CONDINST.MASK_HEAD.USE_FP16": None,
    "MODEL.BOXINST.ENABLED": False,
    "MODEL.SOLOV2.USE_COORD_CONV": True,  # False does not run in the published code either
    "MODEL.SOLOV2.LOSS.FOCAL_USE_SIGMOID": True,
    "MODEL.SOTR.LOSS.FOCAL_USE_SIGMOID": True,
    "MODEL.SOTR.RESIZE_INPUT_FACTOR": None,
    "MODEL.SOTR.INSTANCE_CHANNELS": None,  # these five belong to SOLOv2's towers, which SOTR does not have
    "MODEL.SOTR.NUM_INSTANCE_CONVS": None,
    "MODEL.SOTR.USE_DCN_IN_INSTANCE": None,
    "MODEL.SOTR.TYPE_DCN": None,
    "MODEL.SOTR.USE_COORD_CONV": None,
    # Keys of Mask2Former's YAML files that the plain ResNet never reads.
    "MODEL.RESNETS.STEM_TYPE": None,
    "MODEL.RESNETS.RES5_MULTI_GRID": None,
}


@dataclass(frozen=True)
class LoadedConfig:
    """A config, and which of its keys the user set.

    Attributes:
        cfg: the merged, unfrozen config.
        explicit: the dotted names of all keys that the YAML files or the overrides set.
        overridden: those of the keys that the overrides set, which are meant for this run and its data.
    """

    cfg: CfgNode
    explicit: frozenset[str]
    overridden: frozenset[str]


def load_config(
    config_file: str | None, opts: list[str] | None = None, add_config: AddConfig | Sequence[AddConfig] = ()
) -> LoadedConfig:
    """The default config, overridden by a YAML file with its `_BASE_` files, then by `KEY VALUE` pairs.

    Args:
        config_file: the YAML file; None or empty: there is none.
        opts: keys and values in turn.
        add_config: functions that add keys of their own to the defaults; see `get_cfg`.

    Raises:
        UserError: a file is missing or is not YAML; a key does not exist (the message names the nearest one); a value
            has the wrong type; the overrides do not come in pairs; one of `add_config` fails; the config asks for
            something that no training here can do; or a value of INPUT.DEEP_IMAGES, TEST.DETECTIONS_PER_IMAGE or a key
            of config/values.py is not allowed.
    """
    cfg = get_cfg(add_config)
    in_files: set[str] = set()
    if config_file:
        in_files = _merge(cfg, dict(leaves(read_yaml(config_file))), config_file)
    opts = list(opts or [])
    if len(opts) % 2:
        raise UserError(f"Overrides come in pairs, KEY VALUE; the last one, '{opts[-1]}', has no value.")
    overridden = _merge(cfg, dict(zip(opts[::2], opts[1::2], strict=True)), "the command line")
    spread_detections(cfg, in_files, overridden)
    check_rule(cfg.INPUT.DEEP_IMAGES)
    check_values(cfg)
    if cfg.TEST.PRECISE_BN.ENABLED:
        raise UserError(
            "TEST.PRECISE_BN.ENABLED is not supported: its extra passes would fill the pixel memory. Remove the key."
        )
    return LoadedConfig(cfg, frozenset(in_files | overridden), frozenset(overridden))


def load_keys(keys: Sequence[str], config_file: str | None, opts: list[str] | None = None) -> CfgNode:
    """The default config with only `keys` overridden, for code that needs some keys before the whole config is loaded.

    `load_config` checks later whether all other keys exist, among them those of projects.

    Args:
        keys: the dotted names of keys of this package or of detectron2.
        config_file: the YAML file; None or empty: there is none.
        opts: keys and values in turn.

    Raises:
        UserError: the file is missing or is not YAML, or a value of `keys` has the wrong type.
    """
    cfg = get_cfg()
    tree = dict(leaves(read_yaml(config_file))) if config_file else {}
    opts = list(opts or [])
    pairs = dict(zip(opts[::2], opts[1::2], strict=False))
    for values, source in ((tree, str(config_file)), (pairs, "the command line")):
        _merge(cfg, {key: values[key] for key in keys if key in values}, source)
    return cfg


def _merge(cfg: CfgNode, values: dict[str, Any], source: str) -> set[str]:
    """Sets every key of `values` in `cfg`; returns the names of the keys that were set."""
    names = dict(leaves(cfg))
    done = set()
    for key, value in values.items():
        if key not in names and _is_ignored(key, value, source):
            continue
        if key not in names:
            raise UserError(unknown_key_text(key, list(names), source))
        try:
            if isinstance(names[key], float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            cfg.merge_from_list([key, _as_float(value) if isinstance(names[key], float) else value])
        except (ValueError, OverflowError, AssertionError) as error:
            wanted, given = type(names[key]).__name__, reprlib.repr(value)
            raise UserError(f"{key} in {source}: {given} does not fit, a {wanted} is expected. ({error})") from error
        done.add(key)
    return done


def _as_float(value: Any) -> Any:
    """Turns `1` and `1e-4` (which YAML reads as a string) into a float where a float is expected."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _is_ignored(key: str, value: Any, source: str) -> bool:
    if key not in IGNORED_KEYS:
        return False
    only = IGNORED_KEYS[key]
    if only is not None and str(value) != str(only):
        raise UserError(f"{key} is {value!r} in {source}; this project only knows {only!r}. Remove the key.")
    logger.warning("%s (in %s) has no effect here and is ignored.", key, source)
    return True
