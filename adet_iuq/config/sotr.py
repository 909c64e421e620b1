"""Keys of SOTR (parity spec of SOTR, section 4); all of them are SOLOv2's as well, names and defaults as published."""

from detectron2.config import CfgNode

from adet_iuq.config.solov2 import add_grid_keys


def add_sotr_config(cfg: CfgNode) -> None:
    """Adds `MODEL.SOTR.*` (SOTR, arXiv 2108.06747). Depth, heads and width of its transformer are not options."""
    cfg.MODEL.SOTR = CfgNode()
    add_grid_keys(cfg.MODEL.SOTR)
