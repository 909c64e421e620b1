"""SOTR trained with instance-unique querying (docs/parity/sotr.md, "Instance-unique querying")."""

from detectron2.modeling import META_ARCH_REGISTRY

from adet_iuq.modeling.grid.grid_segmenter_iuq import GridSegmenterIUQ
from adet_iuq.modeling.sotr.sotr import SOTR


@META_ARCH_REGISTRY.register()
class SOTRIUQ(GridSegmenterIUQ, SOTR):
    """SOTR with `loss_inter` and `loss_equi`; its weights and its evaluation are SOTR's."""
