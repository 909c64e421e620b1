"""SOLOv2 trained with instance-unique querying (docs/parity/solov2.md, "Instance-unique querying")."""

from detectron2.modeling import META_ARCH_REGISTRY

from adet_iuq.modeling.grid.grid_segmenter_iuq import GridSegmenterIUQ
from adet_iuq.modeling.solov2.solov2 import SOLOv2


@META_ARCH_REGISTRY.register()
class SOLOv2IUQ(GridSegmenterIUQ, SOLOv2):
    """SOLOv2 with `loss_inter` and `loss_equi`; its weights and its evaluation are SOLOv2's."""
