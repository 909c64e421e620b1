"""CondInst R50 with instance-unique querying, the recipe of configs/CondInst/R50_1x_iuq.yaml as a detectron2 LazyConfig.

python tools/lazy_train_net.py --config-file configs/lazy/condinst_iuq.py --num-gpus 8
python tools/lazy_train_net.py --config-file configs/lazy/condinst_iuq.py --eval-only train.init_checkpoint=model_final.pth

The head of the YAML file says what the paper reports. Loader, hooks and checkpoints are detectron2's, see the tool's head.
Every value takes an override, such as dataloader.train.dataset.names=shapes_train; without a GPU see condinst_iuq_shapes.py.
"""

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.solver.build import get_default_optimizer_params

from adet_iuq.engine.loop.lr_scheduler import PolyLR
from adet_iuq.iuq import EquivarianceLoss, InstanceSampler, InterSceneLoss, IUQCriterion, PixelMemory
from adet_iuq.modeling import Views
from adet_iuq.modeling.condinst import (
    FCOS,
    CondInstIUQ,
    DetectionSettings,
    DynamicMaskHead,
    FCOSHead,
    MaskBranch,
    query_controller,
)

model = L(CondInstIUQ)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True, norm="FrozenBN"),
            out_features=["res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        top_block=L(LastLevelP6P7)(in_channels="${..out_channels}", out_channels="${..out_channels}", in_feature="p5"),
    ),
    proposal_generator=L(FCOS)(
        fcos_head=L(FCOSHead)(
            channels="${...backbone.out_channels}",
            num_classes="${..num_classes}",
            num_levels=5,
            num_convs=(0, 4, 4),
            norm="GN",
            use_scale=True,
            prior_prob=0.01,
            bbox_bias_init=0.0,  # 1.0 when training from random weights
        ),
        in_features=["p3", "p4", "p5", "p6", "p7"],
        strides=[8, 16, 32, 64, 128],
        sizes_of_interest=[64, 128, 256, 512],
        num_classes=80,
        radius=1.5,
        focal=(0.25, 2.0, 1.0),
        class_normalizer="fg",
        location_loss="giou",
        box_quality="ctrness",
        detection=L(DetectionSettings)(
            score_threshold=0.05,
            pre_nms_topk=1000,
            post_nms_topk=100,
            nms_threshold=0.6,
            threshold_with_quality=True,
        ),
    ),
    controller=L(query_controller)(in_channels="${..backbone.out_channels}", num_params=169),
    mask_branch=L(MaskBranch)(
        in_channels=["${...backbone.out_channels}"] * 3,
        in_features=["p3", "p4", "p5"],
        strides=[8, 16, 32],
        channels=128,
        num_convs=4,
        out_channels=8,
        norm="BN",
        semantic_classes=None,
        focal=(0.25, 2.0),
        prior_prob=0.01,
    ),
    mask_head=L(DynamicMaskHead)(
        feature_channels="${..mask_branch.out_channels}",
        feature_stride=8,
        channels=8,
        num_layers=3,
        relative_coordinates=True,
        sizes_of_interest="${..proposal_generator.sizes_of_interest}",
        out_stride=4,
    ),
    pixel_mean=[103.53, 116.28, 123.675],  # BGR
    pixel_std=[1.0, 1.0, 1.0],
    max_queries=500,
    queries_per_image=-1,
    criterion=L(IUQCriterion)(
        memory=L(PixelMemory)(pixel_dim="${...mask_branch.out_channels}", capacity=100_000),
        sampler=L(InstanceSampler)(pixels_per_instance=50),
        inter=L(InterSceneLoss)(start_iter=4500, ramp_iters=4500, max_queries=100),
        equi=L(EquivarianceLoss)(weight=3.0),
    ),
    views=L(Views)(),
)

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=(400, 1200), sample_style="range", max_size=1333),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="BGR",
            use_instance_mask=True,
            instance_mask_format="bitmask",
        ),
        total_batch_size=8,  # images; with their second views a step has 16, one image and one view on each of 8 GPUs
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
)

optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),  # the launcher gives it the model
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-4,
)

lr_multiplier = L(PolyLR)(
    optimizer=None,  # the launcher gives it the one that it builds
    max_iters="${train.max_iter}",
    power=0.9,
    constant_ending=0.0,
    warmup_iters=1000,
    warmup_factor=0.001,
    warmup_method="linear",
)

train = dict(
    output_dir="output/lazy_condinst_iuq",
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    max_iter=90000,
    amp=dict(enabled=False),  # float16, on a GPU
    ddp=dict(broadcast_buffers=False),
    checkpointer=dict(period=5000, max_to_keep=3),
    eval_period=10000,
    log_period=20,
    seed=-1,  # as in detectron2: -1 draws one
    device="cuda",
)
