"""Mask2Former, the published model, and its instance-unique version, with the parts that both are built from."""

from adet_iuq.modeling.mask2former.criterion import SetCriterion
from adet_iuq.modeling.mask2former.head import MaskFormerHead
from adet_iuq.modeling.mask2former.mask2former import MaskFormer, TestSettings
from adet_iuq.modeling.mask2former.mask2former_iuq import MaskFormerIUQ, ViewLoss
from adet_iuq.modeling.mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from adet_iuq.modeling.mask2former.transformer_decoder import MultiScaleMaskedTransformerDecoder

__all__ = [
    "MSDeformAttnPixelDecoder",
    "MaskFormer",
    "MaskFormerHead",
    "MaskFormerIUQ",
    "MultiScaleMaskedTransformerDecoder",
    "SetCriterion",
    "TestSettings",
    "ViewLoss",
]
