"""SOTR trained with instance-unique querying (parity spec of SOTR, section 8)."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from adet_iuq.modeling.grid_segmenter_iuq import GridSegmenterIUQ
from adet_iuq.modeling.sotr.sotr import SOTR


@META_ARCH_REGISTRY.register()
class SOTRIUQ(GridSegmenterIUQ, SOTR):
    """SOTR with `loss_inter` and `loss_equi`; its weights and its evaluation are SOTR's.

    Queries are the outputs of `kernel_pred` at positive grid cells, pixels the mask features (256 channels, stride 4);
    <q, i> is their dot product.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Builds SOTR from `cfg`, then the criterion from `MODEL.IUQ`."""
        super().__init__(cfg)
        self.init_grid_iuq(cfg)
