"""Mask2Former, the published model, and its instance-unique version."""

from adet_iuq.modeling.mask2former.mask2former import MaskFormer
from adet_iuq.modeling.mask2former.mask2former_iuq import MaskFormerIUQ

__all__ = ["MaskFormer", "MaskFormerIUQ"]
