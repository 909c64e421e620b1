"""The whole default configuration."""

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from adet_iuq.config.condinst import add_condinst_config, add_fcos_config
from adet_iuq.config.iuq import add_iuq_config
from adet_iuq.config.mask2former import add_mask2former_config
from adet_iuq.config.solov2 import add_solov2_config
from adet_iuq.config.sotr import add_sotr_config
from adet_iuq.config.swin import add_swin_config
from adet_iuq.config.training import (
    add_data_config,
    add_normalizer_config,
    add_timm_config,
    add_training_config,
)


def get_cfg() -> CfgNode:
    """detectron2's default config with every key of this project added.

    Returns:
        A fresh, unfrozen config. AdelaiDet's own YAML files need `load_config`, which knows the keys that they hold and
        nothing reads.
    """
    cfg = get_detectron2_cfg()
    add_data_config(cfg)
    add_training_config(cfg)
    add_normalizer_config(cfg)
    add_timm_config(cfg)
    add_swin_config(cfg)
    add_fcos_config(cfg)
    add_condinst_config(cfg)
    add_solov2_config(cfg)
    add_sotr_config(cfg)
    add_iuq_config(cfg)
    add_mask2former_config(cfg)
    return cfg
