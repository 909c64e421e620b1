"""SOTR, the published model, and its instance-unique version."""

from adet_iuq.modeling.sotr.sotr import SOTR
from adet_iuq.modeling.sotr.sotr_iuq import SOTRIUQ

__all__ = ["SOTR", "SOTRIUQ"]
