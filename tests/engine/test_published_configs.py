"""YAML files as their authors published them train on two classes, with nothing but data, sizes and schedule given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.engine import Trainer, argument_parser, setup

# AdelaiDet: configs/CondInst/Base-CondInst.yaml and MS_R_50_1x.yaml; configs/SOLOv2/Base-SOLOv2.yaml and R50_3x.yaml.
_ADELAIDET = """\
DATASETS:
  TRAIN: ("coco_2017_train",)
  TEST: ("coco_2017_val",)
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.01
  STEPS: (60000, 80000)
  MAX_ITER: 90000
INPUT:
  MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)
"""
CONDINST = f"""\
MODEL:
  META_ARCHITECTURE: "CondInst"
  MASK_ON: True
  BACKBONE:
    NAME: "build_fcos_resnet_fpn_backbone"
  RESNETS:
    OUT_FEATURES: ["res3", "res4", "res5"]
    DEPTH: 50
  FPN:
    IN_FEATURES: ["res3", "res4", "res5"]
  PROPOSAL_GENERATOR:
    NAME: "FCOS"
  FCOS:
    THRESH_WITH_CTR: True
    USE_SCALE: True
  CONDINST:
    MAX_PROPOSALS: 500
{_ADELAIDET}"""
SOLOV2 = f"""\
MODEL:
  META_ARCHITECTURE: "SOLOv2"
  MASK_ON: True
  BACKBONE:
    NAME: "build_resnet_fpn_backbone"
  RESNETS:
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
    DEPTH: 50
  FPN:
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
{_ADELAIDET}  MASK_FORMAT: "bitmask"
VERSION: 2
"""
SOTR = SOLOV2.replace("SOLOv2", "SOTR")
# Mask2Former: configs/coco/instance-segmentation/Base-COCO-InstanceSegmentation.yaml, maskformer2_R50_bs16_50ep.yaml.
MASK2FORMER = """\
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  BACKBONE:
    FREEZE_AT: 0
    NAME: "build_resnet_backbone"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  RESNETS:
    DEPTH: 50
    STEM_TYPE: "basic"
    STEM_OUT_CHANNELS: 64
    STRIDE_IN_1X1: False
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
    RES5_MULTI_GRID: [1, 1, 1]
  SEM_SEG_HEAD:
    NAME: "MaskFormerHead"
    IGNORE_VALUE: 255
    NUM_CLASSES: 80
    LOSS_WEIGHT: 1.0
    CONVS_DIM: 256
    MASK_DIM: 256
    NORM: "GN"
    PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder"
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
    DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: ["res3", "res4", "res5"]
    COMMON_STRIDE: 4
    TRANSFORMER_ENC_LAYERS: 6
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder"
    TRANSFORMER_IN_FEATURE: "multi_scale_pixel_decoder"
    DEEP_SUPERVISION: True
    NO_OBJECT_WEIGHT: 0.1
    CLASS_WEIGHT: 2.0
    MASK_WEIGHT: 5.0
    DICE_WEIGHT: 5.0
    HIDDEN_DIM: 256
    NUM_OBJECT_QUERIES: 100
    NHEADS: 8
    DROPOUT: 0.0
    DIM_FEEDFORWARD: 2048
    ENC_LAYERS: 0
    PRE_NORM: False
    ENFORCE_INPUT_PROJ: False
    SIZE_DIVISIBILITY: 32
    DEC_LAYERS: 10
    TRAIN_NUM_POINTS: 12544
    OVERSAMPLE_RATIO: 3.0
    IMPORTANCE_SAMPLE_RATIO: 0.75
    TEST:
      SEMANTIC_ON: False
      INSTANCE_ON: True
      PANOPTIC_ON: False
      OVERLAP_THRESHOLD: 0.8
      OBJECT_MASK_THRESHOLD: 0.8
DATASETS:
  TRAIN: ("coco_2017_train",)
  TEST: ("coco_2017_val",)
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.0001
  STEPS: (327778, 355092)
  MAX_ITER: 368750
  WARMUP_FACTOR: 1.0
  WARMUP_ITERS: 10
  WEIGHT_DECAY: 0.05
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 0.1
  CLIP_GRADIENTS:
    ENABLED: True
    CLIP_TYPE: "full_model"
    CLIP_VALUE: 0.01
    NORM_TYPE: 2.0
  AMP:
    ENABLED: True
INPUT:
  IMAGE_SIZE: 1024
  MIN_SCALE: 0.1
  MAX_SCALE: 2.0
  FORMAT: "RGB"
  DATASET_MAPPER_NAME: "coco_instance_lsj"
TEST:
  EVAL_PERIOD: 5000
DATALOADER:
  FILTER_EMPTY_ANNOTATIONS: True
  NUM_WORKERS: 4
VERSION: 2
"""


def two_classes(folder: Path) -> list[str]:
    """Overrides that name a data set of two images and two classes, and make everything small."""
    annotations: list[dict[str, Any]] = []
    for image in (1, 2):
        Image.fromarray(np.full((64, 64, 3), 80 * image, np.uint8)).save(folder / f"{image}.png")
        for category, x in ((1, 4), (2, 36)):
            corners = [x, 8, x + 24, 8, x + 24, 48, x, 48]
            more = {"iscrowd": 0, "area": 960, "bbox": [x, 8, 24, 40], "segmentation": [corners]}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": category, **more})
    content = {
        "images": [{"id": image, "file_name": f"{image}.png", "height": 64, "width": 64} for image in (1, 2)],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "debris"}],
        "annotations": annotations,
    }
    (folder / "data.json").write_text(json.dumps(content))
    options = {
        "DATASETS.REGISTER": [[folder.name, str(folder / "data.json"), str(folder)]],
        "DATASETS.TRAIN": (folder.name,),
        "DATASETS.TEST": (folder.name,),
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.IMAGE_SIZE": 64,
        "MODEL.SOLOV2.NUM_GRIDS": [8] * 5,
        "MODEL.SOTR.NUM_GRIDS": [8] * 5,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": (),
        "DATALOADER.NUM_WORKERS": 0,
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "SOLVER.AMP.ENABLED": False,
        "OUTPUT_DIR": str(folder / "output"),
        "REPORT.ENABLED": False,
    }
    return [str(part) for pair in options.items() for part in pair]


@pytest.mark.parametrize(
    "text",
    [CONDINST, SOLOV2, pytest.param(SOTR, marks=pytest.mark.slow), MASK2FORMER],
    ids=["CondInst", "SOLOv2", "SOTR", "Mask2Former"],
)
def test_a_published_file_trains_a_step_on_two_classes_and_is_evaluated(tmp_path: Path, text: str) -> None:
    (tmp_path / "published.yaml").write_text(text)
    words = ["--config-file", str(tmp_path / "published.yaml"), *two_classes(tmp_path)]
    cfg = setup(argument_parser().parse_args(words))
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == cfg.MODEL.SOLOV2.NUM_CLASSES == 2
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert {"bbox", "segm"} == set(trainer.train())
