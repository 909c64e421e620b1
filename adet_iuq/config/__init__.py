"""Configuration: detectron2's keys plus the project's, each with a comment and its source."""

from adet_iuq.config.defaults import get_cfg
from adet_iuq.config.load import LoadedConfig, load_config

__all__ = ["LoadedConfig", "get_cfg", "load_config"]
