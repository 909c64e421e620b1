"""Parts that several segmenters share."""

from adet_iuq.modeling.layers.deformable_attention import MSDeformAttn, deformable_attention
from adet_iuq.modeling.layers.dot_product import dot_product_maps, ordered_dot_product_maps
from adet_iuq.modeling.layers.focal import focal_loss_sum
from adet_iuq.modeling.layers.masks import instance_masks, mask_centroids, sample_masks
from adet_iuq.modeling.layers.paste import paste_masks
from adet_iuq.modeling.layers.position import sine_positions
from adet_iuq.modeling.layers.sparse_conv import conv_at
from adet_iuq.modeling.layers.upsample import aligned_bilinear

__all__ = [
    "MSDeformAttn",
    "aligned_bilinear",
    "conv_at",
    "deformable_attention",
    "dot_product_maps",
    "focal_loss_sum",
    "instance_masks",
    "mask_centroids",
    "ordered_dot_product_maps",
    "paste_masks",
    "sample_masks",
    "sine_positions",
]
