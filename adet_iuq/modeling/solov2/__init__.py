"""SOLOv2, the published model, and its instance-unique version; `modeling.grid` holds the parts that it shares."""

from adet_iuq.modeling.solov2.instance_head import COORDINATES, InstanceHead
from adet_iuq.modeling.solov2.solov2 import SOLOv2
from adet_iuq.modeling.solov2.solov2_iuq import SOLOv2IUQ

__all__ = ["COORDINATES", "InstanceHead", "SOLOv2", "SOLOv2IUQ"]
