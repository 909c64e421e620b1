"""Parts that several segmenters share."""

from adet_iuq.modeling.layers.focal import focal_loss_sum
from adet_iuq.modeling.layers.masks import instance_masks, mask_centroids, sample_masks
from adet_iuq.modeling.layers.paste import paste_masks
from adet_iuq.modeling.layers.sparse_conv import conv_at
from adet_iuq.modeling.layers.upsample import aligned_bilinear

__all__ = [
    "aligned_bilinear",
    "conv_at",
    "focal_loss_sum",
    "instance_masks",
    "mask_centroids",
    "paste_masks",
    "sample_masks",
]
