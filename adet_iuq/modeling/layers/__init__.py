"""Parts that several segmenters share."""

from adet_iuq.modeling.layers.deform_conv import DeformableConv, split_offsets
from adet_iuq.modeling.layers.deformable_attention import MSDeformAttn, deformable_attention
from adet_iuq.modeling.layers.dice import dice_losses
from adet_iuq.modeling.layers.dot_product import dot_product_maps, ordered_dot_product_maps
from adet_iuq.modeling.layers.downscale import quarter_masks
from adet_iuq.modeling.layers.focal import focal_loss_sum
from adet_iuq.modeling.layers.grid_config import grid_segmenter_arguments
from adet_iuq.modeling.layers.grid_inference import GridDetection, GridResults, mask_probabilities, select_results
from adet_iuq.modeling.layers.grid_losses import (
    DICE_EPSILON,
    GridLossSettings,
    GridQueries,
    class_loss,
    mask_logits,
    mask_loss,
)
from adet_iuq.modeling.layers.grid_segmenter import GridMaps, GridSegmenter
from adet_iuq.modeling.layers.grid_targets import GridLayout, GridTargets, GridTruth, assign_cells
from adet_iuq.modeling.layers.mask_branch import MaskBranch, check_norm, conv_block, coordinate_maps, init_normal
from adet_iuq.modeling.layers.masks import instance_masks, mask_centroids, sample_masks
from adet_iuq.modeling.layers.normalizer import loss_count, reduce_mean
from adet_iuq.modeling.layers.paste import mask_boxes, paste_grid_masks, paste_masks
from adet_iuq.modeling.layers.position import sine_positions
from adet_iuq.modeling.layers.sparse_conv import conv_at
from adet_iuq.modeling.layers.suppression import mask_nms, matrix_nms, point_nms, same_class_ious
from adet_iuq.modeling.layers.upsample import aligned_bilinear

__all__ = [
    "DICE_EPSILON",
    "DeformableConv",
    "GridDetection",
    "GridLayout",
    "GridLossSettings",
    "GridMaps",
    "GridQueries",
    "GridResults",
    "GridSegmenter",
    "GridTargets",
    "GridTruth",
    "MSDeformAttn",
    "MaskBranch",
    "aligned_bilinear",
    "assign_cells",
    "check_norm",
    "class_loss",
    "conv_at",
    "conv_block",
    "coordinate_maps",
    "deformable_attention",
    "dice_losses",
    "dot_product_maps",
    "focal_loss_sum",
    "grid_segmenter_arguments",
    "init_normal",
    "instance_masks",
    "loss_count",
    "mask_boxes",
    "mask_centroids",
    "mask_logits",
    "mask_loss",
    "mask_nms",
    "mask_probabilities",
    "matrix_nms",
    "ordered_dot_product_maps",
    "paste_grid_masks",
    "paste_masks",
    "point_nms",
    "quarter_masks",
    "reduce_mean",
    "same_class_ious",
    "sample_masks",
    "select_results",
    "sine_positions",
    "split_offsets",
]
