"""The whole default configuration."""

from collections.abc import Callable, Sequence

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from adet_iuq.config.condinst import add_bifpn_config, add_condinst_config, add_fcos_config
from adet_iuq.config.grid import add_solov2_config, add_sotr_config
from adet_iuq.config.iuq import add_iuq_config
from adet_iuq.config.mask2former import add_mask2former_config
from adet_iuq.config.swin import add_swin_config
from adet_iuq.config.training import (
    add_data_config,
    add_normalizer_config,
    add_report_config,
    add_test_config,
    add_timm_config,
    add_training_config,
)
from adet_iuq.errors import UserError
from adet_iuq.registry import callable_name

# A function that adds keys to a config in place; detectron2's projects call it `add_<project>_config`.
AddConfig = Callable[[CfgNode], object]


def get_cfg(add_config: AddConfig | Sequence[AddConfig] = ()) -> CfgNode:
    """detectron2's default config with every key of this project added.

    Args:
        add_config: one or several functions that add more keys, called in this order.

    Returns:
        A fresh, unfrozen config. AdelaiDet's own YAML files need `load_config`, which knows those of their keys that
        nothing reads.

    Raises:
        UserError: one of `add_config` fails, or is no function.
    """
    cfg = get_detectron2_cfg()
    cfg.MODEL.MASK_ON = True  # with detectron2's False, which Mask2Former's published files keep, there is no mask AP
    add_data_config(cfg)
    add_training_config(cfg)
    add_test_config(cfg)
    add_report_config(cfg)
    add_normalizer_config(cfg)
    add_timm_config(cfg)
    add_swin_config(cfg)
    add_fcos_config(cfg)
    add_bifpn_config(cfg)
    add_condinst_config(cfg)
    add_solov2_config(cfg)
    add_sotr_config(cfg)
    add_iuq_config(cfg)
    add_mask2former_config(cfg)
    for add in each(add_config):
        _add_keys(cfg, add)
    return cfg


def each(add_config: AddConfig | Sequence[AddConfig]) -> list[AddConfig]:
    """One or several functions, as a list.

    Raises:
        UserError: one of them is no function.
    """
    functions = list(add_config) if isinstance(add_config, Sequence) else [add_config]
    if not all(map(callable, functions)):
        raise UserError(
            f"add_config is {add_config!r}; it must be a function f(cfg) that adds keys to a config, or a list of such."
        )
    return functions


def _add_keys(cfg: CfgNode, add: AddConfig) -> None:
    try:
        add(cfg)
    except Exception as error:
        raise UserError(
            f"add_config: {callable_name(add)} failed to add its config keys: {type(error).__name__}: {error}"
        ) from error
