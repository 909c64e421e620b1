"""Segmenters are built from plain arguments as well as from a config, and keep no config either way."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.utils.events import EventStorage

from adet_iuq.errors import UserError
from adet_iuq.iuq import EquivarianceLoss, InterSceneLoss, IUQCriterion, PixelMemory
from adet_iuq.modeling import IUQMetaArch, Views, condinst, mask2former, solov2, sotr
from adet_iuq.modeling.backbone import LastLevelP6
from adet_iuq.modeling.grid import GridDetection, GridLayout, GridLossSettings, GridMaskBranch
from helpers.attributes import walk
from helpers.scenes import discs, mask2former_model, small_model

PIXELS: dict[str, Any] = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (1.0, 1.0, 1.0)}
CLASSES = 3
GRIDS = (6, 4, 4, 3, 3)


def method(pixel_dim: int) -> dict[str, Any]:
    """What every segmenter takes for both terms."""
    criterion = IUQCriterion(
        memory=PixelMemory(pixel_dim, capacity=1000), inter=InterSceneLoss(max_queries=50), equi=EquivarianceLoss()
    )
    return {"criterion": criterion, "views": Views()}


def resnet(*out_features: str) -> ResNet:
    stem = BasicStem(in_channels=3, out_channels=64, norm="BN")
    return ResNet(stem, ResNet.make_default_stages(depth=18, norm="BN"), out_features=list(out_features))


def pyramid(channels: int, *features: str, top_block: torch.nn.Module) -> FPN:
    return FPN(resnet(*features), list(features), channels, top_block=top_block)


def build_condinst(top_levels: int = 2) -> IUQMetaArch:
    channels, sizes = 64, [16, 32, 64, 128][: top_levels + 2]
    names = ["p3", "p4", "p5", "p6", "p7"][: top_levels + 3]
    top = LastLevelP6P7(channels, channels, "p5") if top_levels == 2 else LastLevelP6(channels, channels)
    mask_head = condinst.DynamicMaskHead(
        feature_channels=8,
        feature_stride=8,
        channels=8,
        num_layers=3,
        relative_coordinates=True,
        sizes_of_interest=sizes,
        out_stride=4,
    )
    return condinst.CondInstIUQ(
        backbone=pyramid(channels, "res3", "res4", "res5", top_block=top),
        proposal_generator=condinst.FCOS(
            fcos_head=condinst.FCOSHead(
                channels=channels,
                num_classes=CLASSES,
                num_levels=len(names),
                num_convs=(0, 1, 1),
                norm="GN",
                use_scale=True,
                prior_prob=0.01,
                bbox_bias_init=1.0,
            ),
            in_features=names,
            strides=[8, 16, 32, 64, 128][: len(names)],
            sizes_of_interest=sizes,
            num_classes=CLASSES,
            radius=1.5,
            focal=(0.25, 2.0, 1.0),
            class_normalizer="fg",
            location_loss="giou",
            box_quality="ctrness",
            detection=condinst.DetectionSettings(0.0, 100, 20, 0.6, True),
        ),
        controller=condinst.query_controller(channels, mask_head.num_params),
        mask_branch=condinst.MaskBranch(
            in_channels=[channels] * 3,
            in_features=["p3", "p4", "p5"],
            strides=[8, 16, 32],
            channels=16,
            num_convs=1,
            out_channels=8,
            norm="BN",
            semantic_classes=None,
            focal=(0.25, 2.0),
            prior_prob=0.01,
        ),
        mask_head=mask_head,
        max_queries=500,
        queries_per_image=-1,
        **PIXELS,
        **method(8),
    )


def grid_arguments(channels: int, top_channels: int, dim: int) -> dict[str, Any]:
    """What SOLOv2 and SOTR take alike."""
    return {
        "backbone": pyramid(channels, "res2", "res3", "res4", "res5", top_block=LastLevelMaxPool()),
        "mask_head": GridMaskBranch(
            in_channels=[*[channels] * 3, top_channels], channels=32, out_channels=dim, norm="GN"
        ),
        "layout": GridLayout(
            sizes=GRIDS,
            strides=(8, 8, 16, 32, 32),
            scale_ranges=((1, 24), (12, 48), (24, 96), (48, 192), (96, 512)),
            sigma=0.2,
        ),
        "num_classes": CLASSES,
        "loss_settings": GridLossSettings(0.25, 2.0, 1.0, 3.0, False),
        "detection": GridDetection(0.0, 0.5, 0.0, 50, 10, "matrix", "gaussian", 2.0),
        "in_features": ["p2", "p3", "p4", "p5", "p6"],
        "mask_in_features": ["p2", "p3", "p4", "p5"],
        **PIXELS,
        **method(dim),
    }


def build_solov2() -> IUQMetaArch:
    head = solov2.InstanceHead(
        in_channels=32,
        channels=32,
        num_convs=1,
        num_classes=CLASSES,
        kernel_channels=32,
        grid_sizes=GRIDS,
        norm="GN",
        prior_prob=0.01,
        deformable=None,
    )
    return solov2.SOLOv2IUQ(ins_head=head, **grid_arguments(32, 32 + solov2.COORDINATES, dim=32))


def build_sotr() -> IUQMetaArch:
    head = sotr.TransformerHead(
        grid_sizes=GRIDS, num_classes=CLASSES, kernel_channels=32, prior_prob=0.01, channels=32, depth=2
    )
    return sotr.SOTRIUQ(cate_head=head, **grid_arguments(32, 32, dim=32))


def build_mask2former() -> IUQMetaArch:
    backbone = resnet("res2", "res3", "res4", "res5")
    shapes: dict[str, ShapeSpec] = backbone.output_shape()
    return mask2former.MaskFormerIUQ(
        backbone=backbone,
        sem_seg_head=mask2former.MaskFormerHead(
            pixel_decoder=mask2former.MSDeformAttnPixelDecoder(
                input_shape=shapes,
                lateral="res2",
                encoded=["res3", "res4", "res5"],
                channels=32,
                mask_channels=32,
                layers=1,
                heads=4,
                dropout=0.0,
                norm="GN",
            ),
            predictor=mask2former.MultiScaleMaskedTransformerDecoder(
                in_channels=32,
                channels=32,
                mask_channels=32,
                num_classes=CLASSES,
                num_queries=10,
                heads=4,
                hidden=64,
                layers=2,
                enforce_projection=False,
            ),
        ),
        set_criterion=mask2former.SetCriterion(
            num_classes=CLASSES,
            no_object_weight=0.1,
            class_weight=2.0,
            mask_weight=5.0,
            dice_weight=5.0,
            num_points=64,
            oversample_ratio=3.0,
            importance_ratio=0.75,
            deep_supervision=True,
        ),
        size_divisibility=32,
        things=None,
        test=mask2former.TestSettings(
            semantic_on=False,
            instance_on=True,
            panoptic_on=False,
            object_mask_threshold=0.8,
            overlap_threshold=0.8,
            resize_first=True,
            detections_per_image=10,
        ),
        view_loss=mask2former.ViewLoss(),
        **PIXELS,
        **method(32),
    )


FROM_CONFIG: dict[str, Callable[[], Any]] = {
    "condinst": lambda: small_model("CondInst/R50_1x_iuq.yaml"),
    "solov2": lambda: small_model("SOLOv2/R50_1x_iuq.yaml"),
    "sotr": lambda: small_model("SOTR/R50_iuq.yaml"),
    "mask2former": lambda: mask2former_model("Mask2Former/R50_50ep_iuq.yaml", "MODEL.MASK_FORMER.DEC_LAYERS", "3"),
    "swin": lambda: mask2former_model("Mask2Former/SwinT_50ep_iuq.yaml"),
    "timm": lambda: small_model(
        "CondInst/R50_1x_iuq.yaml",
        *("MODEL.BACKBONE.NAME", "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NAME", "resnet18"),
    ),
    "deformable": lambda: small_model(
        "SOLOv2/R50_1x_iuq.yaml",
        *("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256"),
        *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, False, True]"),
    ),
}


def train_step(model: Any) -> dict[str, torch.Tensor]:
    with EventStorage():
        losses: dict[str, torch.Tensor] = model([discs(96, 128, 4, seed=1), discs(128, 96, 3, seed=2)])
    return losses


@pytest.mark.parametrize(
    "build,base_losses",
    [
        (build_condinst, {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_mask"}),
        (build_solov2, {"loss_ins", "loss_cate"}),
        pytest.param(build_sotr, {"loss_ins", "loss_cate"}, marks=pytest.mark.slow),  # its transformer has one size
        (build_mask2former, {f"loss_{one}{layer}" for one in ("ce", "mask", "dice") for layer in ("", "_0", "_1")}),
    ],
)
def test_trains_and_infers_without_a_config(build: Callable[[], IUQMetaArch], base_losses: set[str]) -> None:
    torch.manual_seed(0)
    model = build()
    losses = train_step(model)
    torch.stack(list(losses.values())).sum().backward()
    assert set(losses) == base_losses | {"loss_inter", "loss_equi"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_inter"] > 0 and losses["loss_equi"] > 0
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    with torch.no_grad():
        (result,) = model.eval()([{"image": discs(96, 128, 4, seed=1)["image"], "height": 48, "width": 64}])
    assert result["instances"].image_size == (48, 64)
    assert len(result["instances"]) > 0 and result["instances"].pred_masks.shape[1:] == (48, 64)


def test_pyramid_with_one_more_level_trains() -> None:
    assert all(torch.isfinite(loss) for loss in train_step(build_condinst(top_levels=1)).values())


def test_controller_of_another_size_is_refused() -> None:
    model = build_condinst()
    arguments = {
        name: getattr(model, name)
        for name in ("backbone", "proposal_generator", "mask_branch", "mask_head", "max_queries", "queries_per_image")
    }
    with pytest.raises(UserError, match="169"):
        condinst.CondInst(controller=condinst.query_controller(64, 168), **arguments, **PIXELS)


def configs_in(value: Any) -> Iterator[str]:
    return (path for path, held in walk(value) if isinstance(held, CfgNode))


@pytest.mark.parametrize("name", FROM_CONFIG)
def test_nothing_keeps_the_config(name: str) -> None:
    assert list(configs_in(FROM_CONFIG[name]())) == []


def test_a_kept_config_is_found() -> None:
    model, cfg = torch.nn.Sequential(torch.nn.Identity()), CfgNode()
    vars(model[0])["settings"] = SimpleNamespace(deep=[{"key": lambda: cfg}])
    assert list(configs_in(model)) == ["._modules.0.settings.deep.0.key.closure.0"]
