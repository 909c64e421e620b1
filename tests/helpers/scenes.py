"""Small random training inputs and small models for tests."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import load_config
from helpers.golden import REPOSITORY

SMALL = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.RESNETS.DEPTH", "18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
    "MODEL.FCOS.NUM_CLASSES", "3",
    "MODEL.FCOS.SIZES_OF_INTEREST", "[16, 32, 64, 128]",
    "MODEL.FCOS.BBOX_BIAS_INIT", "1.0",
]  # fmt: skip
SMALL_MASK2FORMER = [
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    "MODEL.SEM_SEG_HEAD.MASK_DIM", "32",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1",
    "MODEL.MASK_FORMER.HIDDEN_DIM", "32",
    "MODEL.MASK_FORMER.NHEADS", "4",
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD", "64",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "10",
    "MODEL.MASK_FORMER.DEC_LAYERS", "4",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "64",
]  # fmt: skip


def windowed_maps(height: int, width: int) -> torch.Tensor:
    """(10, height, width) float in [0, 1]: noise everywhere, in parts, at borders, in one cell, and nowhere."""
    noise = torch.rand(10, height, width, generator=torch.Generator().manual_seed(0))
    shown = torch.zeros(10, height, width)
    shown[0] = shown[1, :3, :4] = shown[2, -4:, -2:] = shown[3, 5:9, 7:12] = shown[4, 6, :] = shown[5, :, 3] = 1
    shown[6, 0, -1] = shown[7, 5, 5] = shown[9, 2:5, 2:9] = 1
    noise[6:8], noise[9] = 0.9, 1.0
    return noise * shown


def small_cfg(recipe: str, *overrides: str) -> CfgNode:
    """A recipe below configs/ with a ResNet-18, on the CPU."""
    return load_config(str(REPOSITORY / "configs" / recipe), [*SMALL, *overrides]).cfg


def mask2former_model(recipe: str, *overrides: str, seed: int = 0) -> Any:
    """A Mask2Former recipe with a ResNet-18, narrow decoders, few queries and points; weights fixed by the seed."""
    return small_model(recipe, *SMALL_MASK2FORMER, *overrides, seed=seed)


def small_model(recipe: str, *overrides: str, seed: int = 0) -> Any:
    """The model of `small_cfg`, its weights fixed by the seed."""
    torch.manual_seed(seed)
    return build_model(small_cfg(recipe, *overrides))


def discs(height: int, width: int, count: int, seed: int) -> dict[str, Any]:
    """A training input: noise with `count` discs and their annotations, and everything the loader adds."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for mask in masks:
        cy, cx, r = (torch.rand(3, generator=generator) * torch.tensor([height, width, 20.0])).tolist()
        mask |= (y - cy) ** 2 + (x - cx) ** 2 <= (r + 8) ** 2
        image[:, mask] = torch.randint(0, 256, (3, 1), generator=generator, dtype=torch.uint8)
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.arange(count) % 3
    keys = {"image_id": seed, "sample_index": seed, "sample_seed": 1000 + seed, "file_name": f"{seed}.png"}
    return {"image": image, "instances": instances, "height": height, "width": width, **keys}
