"""CondInst, the published model, and its instance-unique version."""

from adet_iuq.modeling.condinst.condinst import CondInst
from adet_iuq.modeling.condinst.condinst_iuq import CondInstIUQ

__all__ = ["CondInst", "CondInstIUQ"]
