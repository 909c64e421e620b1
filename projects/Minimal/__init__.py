"""Minimal: a whole segmenter in one small file, trained with instance-unique querying through public names only."""

from .config import add_config
from .minimal import Minimal
from .minimal_iuq import MinimalIUQ

__all__ = ["Minimal", "MinimalIUQ", "add_config"]
