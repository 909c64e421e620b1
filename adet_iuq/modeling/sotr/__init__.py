"""SOTR, the published model, and its instance-unique version; `modeling.grid` holds the parts that it shares."""

from adet_iuq.modeling.sotr.head import CHANNELS, TransformerHead
from adet_iuq.modeling.sotr.sotr import SOTR
from adet_iuq.modeling.sotr.sotr_iuq import SOTRIUQ

__all__ = ["CHANNELS", "SOTR", "SOTRIUQ", "TransformerHead"]
