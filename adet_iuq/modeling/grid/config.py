"""Turns the config keys that SOLOv2 and SOTR share into the arguments of `GridSegmenter`."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone

from adet_iuq.errors import UserError
from adet_iuq.modeling.grid.inference import GridDetection
from adet_iuq.modeling.grid.losses import GridLossSettings
from adet_iuq.modeling.grid.mask_branch import GridMaskBranch
from adet_iuq.modeling.grid.targets import GridLayout


def grid_segmenter_arguments(cfg: CfgNode, section: str, backbone: Backbone, top_channels: int) -> dict[str, Any]:
    """All arguments of `GridSegmenter`.

    Args:
        cfg: the config, of which `MODEL.<section>` is read.
        section: "SOLOV2" or "SOTR".
        backbone: the backbone that `cfg` names.
        top_channels: the channels of the map that the mask branch reads in place of the pyramid's coarsest map.

    Raises:
        UserError: keys do not fit each other, or do not fit the backbone.
    """
    keys = cfg.MODEL[section]
    _check_levels(keys, f"MODEL.{section}")
    _check_backbone(keys, f"MODEL.{section}", backbone.output_shape(), cfg.MODEL.BACKBONE.NAME)
    entering = [keys.MASK_IN_CHANNELS] * (len(keys.MASK_IN_FEATURES) - 1)
    loss = keys.LOSS
    return {
        "backbone": backbone,
        "mask_head": GridMaskBranch(
            in_channels=[*entering, top_channels],
            channels=keys.MASK_CHANNELS,
            out_channels=keys.NUM_MASKS,
            norm=keys.NORM,
        ),
        "layout": GridLayout(
            sizes=tuple(keys.NUM_GRIDS),
            strides=tuple(keys.FPN_INSTANCE_STRIDES),
            scale_ranges=tuple((float(low), float(high)) for low, high in keys.FPN_SCALE_RANGES),
            sigma=keys.SIGMA,
        ),
        "num_classes": keys.NUM_CLASSES,
        "loss_settings": GridLossSettings(
            loss.FOCAL_ALPHA, loss.FOCAL_GAMMA, loss.FOCAL_WEIGHT, loss.DICE_WEIGHT, cfg.MODEL.REDUCE_NORMALIZER
        ),
        "detection": GridDetection(
            score_threshold=keys.SCORE_THR,
            mask_threshold=keys.MASK_THR,
            update_threshold=keys.UPDATE_THR,
            nms_pre=keys.NMS_PRE,
            max_per_image=keys.MAX_PER_IMG,
            nms_type=keys.NMS_TYPE,
            nms_kernel=keys.NMS_KERNEL,
            nms_sigma=keys.NMS_SIGMA,
        ),
        "in_features": keys.INSTANCE_IN_FEATURES,
        "mask_in_features": keys.MASK_IN_FEATURES,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _check_levels(keys: CfgNode, section: str) -> None:
    names = ("INSTANCE_IN_FEATURES", "FPN_INSTANCE_STRIDES", "FPN_SCALE_RANGES", "NUM_GRIDS")
    lengths = {name: len(keys[name]) for name in names}
    if len(set(lengths.values())) > 1 or lengths["NUM_GRIDS"] < 2:
        raise UserError(f"{section} needs one entry per level, and at least two levels, in each of {lengths}.")
    if keys.NUM_KERNELS != keys.NUM_MASKS:
        raise UserError(
            f"{section}.NUM_KERNELS {keys.NUM_KERNELS} and NUM_MASKS {keys.NUM_MASKS} differ; a query is a 1x1 kernel."
        )


def _check_backbone(keys: CfgNode, section: str, shapes: dict[str, ShapeSpec], backbone: str) -> None:
    for names, channels in (
        ("INSTANCE_IN_FEATURES", "INSTANCE_IN_CHANNELS"),
        ("MASK_IN_FEATURES", "MASK_IN_CHANNELS"),
    ):
        missing = [name for name in keys[names] if name not in shapes]
        if missing:
            raise UserError(
                f"{section}.{names} names {missing}, but MODEL.BACKBONE.NAME {backbone} offers {list(shapes)}. "
                "It needs a pyramid such as build_resnet_fpn_backbone."
            )
        widths = {name: shapes[name].channels for name in keys[names]}
        if set(widths.values()) != {keys[channels]}:
            raise UserError(
                f"{section}.{channels} is {keys[channels]}, but the backbone's maps have {widths} channels."
            )
    strides = [shapes[name].stride for name in keys.MASK_IN_FEATURES]
    if strides != [4 * 2**level for level in range(len(strides))]:
        raise UserError(f"{section}.MASK_IN_FEATURES have the strides {strides}; they must be 4, 8, 16 ...")
