"""SOLOv2, the published model, and its instance-unique version."""

from adet_iuq.modeling.solov2.solov2 import SOLOv2
from adet_iuq.modeling.solov2.solov2_iuq import SOLOv2IUQ

__all__ = ["SOLOv2", "SOLOv2IUQ"]
