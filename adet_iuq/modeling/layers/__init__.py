"""Parts that any segmenter may use."""

from adet_iuq.modeling.layers.chunks import items_at_once
from adet_iuq.modeling.layers.deform_conv import DeformableConv, split_offsets
from adet_iuq.modeling.layers.deformable_attention import MSDeformAttn, deformable_attention
from adet_iuq.modeling.layers.dot_product import dot_product_maps, ordered_dot_product_maps
from adet_iuq.modeling.layers.losses import dice_losses, focal_loss_sum, loss_count, reduce_mean
from adet_iuq.modeling.layers.mask_sets import (
    Chunk,
    EncodedMasks,
    Masks,
    MaskWindow,
    boxes_around,
    encoded_masks,
    stacked_masks,
)
from adet_iuq.modeling.layers.masks import instance_masks, mask_boxes, mask_centroids, strided_masks
from adet_iuq.modeling.layers.pairs import pair_rows
from adet_iuq.modeling.layers.paste import (
    aligned_bilinear,
    paste_grid_masks,
    paste_masks,
    pasted_grid_masks,
    pasted_masks,
)
from adet_iuq.modeling.layers.position import sine_positions
from adet_iuq.modeling.layers.resampling import Resampling, resized_axis
from adet_iuq.modeling.layers.sparse_conv import conv_at

__all__ = [
    "Chunk",
    "DeformableConv",
    "EncodedMasks",
    "MSDeformAttn",
    "MaskWindow",
    "Masks",
    "Resampling",
    "aligned_bilinear",
    "boxes_around",
    "conv_at",
    "deformable_attention",
    "dice_losses",
    "dot_product_maps",
    "encoded_masks",
    "focal_loss_sum",
    "instance_masks",
    "items_at_once",
    "loss_count",
    "mask_boxes",
    "mask_centroids",
    "ordered_dot_product_maps",
    "pair_rows",
    "paste_grid_masks",
    "paste_masks",
    "pasted_grid_masks",
    "pasted_masks",
    "reduce_mean",
    "resized_axis",
    "sine_positions",
    "split_offsets",
    "stacked_masks",
    "strided_masks",
]
