"""SOTR, the published model, and its instance-unique version; `modeling.grid` holds the parts that it shares."""

from adet_iuq.modeling.sotr.head import TransformerHead
from adet_iuq.modeling.sotr.sotr import SOTR
from adet_iuq.modeling.sotr.sotr_iuq import SOTRIUQ

__all__ = ["SOTR", "SOTRIUQ", "TransformerHead"]
