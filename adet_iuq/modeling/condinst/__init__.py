"""CondInst, the published model, and its instance-unique version, with the parts that both are built from."""

from adet_iuq.modeling.condinst.condinst import CondInst
from adet_iuq.modeling.condinst.condinst_iuq import REFERENCE, CondInstIUQ
from adet_iuq.modeling.condinst.fcos import FCOS
from adet_iuq.modeling.condinst.fcos_head import FCOSHead
from adet_iuq.modeling.condinst.fcos_inference import DetectionSettings
from adet_iuq.modeling.condinst.mask_branch import MaskBranch
from adet_iuq.modeling.condinst.mask_head import DynamicMaskHead, query_controller

__all__ = [
    "FCOS",
    "REFERENCE",
    "CondInst",
    "CondInstIUQ",
    "DetectionSettings",
    "DynamicMaskHead",
    "FCOSHead",
    "MaskBranch",
    "query_controller",
]
