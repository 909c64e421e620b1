"""What SOLOv2 and SOTR share: the cells of grids over the image are the queries, with one dense map at stride 4."""

from adet_iuq.modeling.grid.config import grid_segmenter_arguments
from adet_iuq.modeling.grid.grid_segmenter import GridMaps, GridSegmenter
from adet_iuq.modeling.grid.inference import GridDetection, GridResults, mask_probabilities, select_results
from adet_iuq.modeling.grid.losses import (
    DICE_EPSILON,
    GridLossSettings,
    class_loss,
    mask_logits,
    mask_loss,
)
from adet_iuq.modeling.grid.mask_branch import GridMaskBranch, check_norm, conv_block, coordinate_maps, init_normal
from adet_iuq.modeling.grid.quarter_masks import quarter_masks
from adet_iuq.modeling.grid.suppression import mask_nms, matrix_nms, point_nms, same_class_ious
from adet_iuq.modeling.grid.targets import GridLayout, GridTargets, GridTruth, assign_cells

__all__ = [
    "DICE_EPSILON",
    "GridDetection",
    "GridLayout",
    "GridLossSettings",
    "GridMaps",
    "GridMaskBranch",
    "GridResults",
    "GridSegmenter",
    "GridTargets",
    "GridTruth",
    "assign_cells",
    "check_norm",
    "class_loss",
    "conv_block",
    "coordinate_maps",
    "grid_segmenter_arguments",
    "init_normal",
    "mask_logits",
    "mask_loss",
    "mask_nms",
    "mask_probabilities",
    "matrix_nms",
    "point_nms",
    "quarter_masks",
    "same_class_ious",
    "select_results",
]
