"""Golden files of Mask2Former: how models get their weights and points, and how matches and results are laid out."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import Tensor, nn

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import load_config
from adet_iuq.modeling.mask2former import MaskFormer
from adet_iuq.modeling.mask2former.criterion import SetCriterion
from adet_iuq.modeling.mask2former.inference import OutputGeometry
from adet_iuq.modeling.mask2former.matcher import Matches
from helpers.golden import DEVICE, REPOSITORY, SLACK, fill, golden_dir

Outputs = dict[str, Any]


def build(recipe: str, *overrides: Any) -> MaskFormer:
    """The model of a recipe below configs/Mask2Former, on the device of the goldens."""
    cfg = load_config(str(REPOSITORY / f"configs/Mask2Former/{recipe}.yaml"), list(overrides)).cfg
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = str(DEVICE), ""
    return build_model(cfg)


def with_golden_weights(module: nn.Module, meta: dict[str, Any]) -> Any:
    """The module with the weights of a golden, on the device of the goldens."""
    fill(module, meta["seed"], meta.get("constants", {}))
    for name, parameter in module.named_parameters():
        for pattern, factor in meta.get("scales", {}).items():
            if re.search(pattern, name):
                parameter.data.mul_(factor)
    return module.to(DEVICE)


def extra_inputs(name: str) -> dict[str, Tensor]:
    """What a golden keeps under in/."""
    data = np.load(golden_dir("mask2former") / f"golden_{name}.npz")
    return {
        key.removeprefix("in/"): torch.as_tensor(data[key], device=DEVICE)
        for key in data.files
        if key.startswith("in/")
    }


def stored_points(inputs: dict[str, Tensor]) -> Callable[[int, int, torch.device], Tensor]:
    """The golden's sets, which have different sizes, instead of random points."""
    sets = {len(inputs[name]): inputs[name] for name in ("points", "candidates", "random")}
    assert len(sets) == 3
    return lambda rows, count, device: sets[count].expand(rows, -1, -1)


def set_points(criterion: SetCriterion, inputs: dict[str, Tensor]) -> None:
    """Makes the criterion and its matcher use the golden's points."""
    criterion.source = criterion.matcher.source = stored_points(inputs)


def match_rows(matches: Matches, layer: str, number: int) -> Outputs:
    """The queries and targets of each image that one of the predictions matched, (2, pairs)."""
    queries, targets = (part[number].split(matches.counts) for part in (matches.query, matches.target))
    return {
        f"match/{layer}/{image}": torch.stack(pair) for image, pair in enumerate(zip(queries, targets, strict=True))
    }


def instance_outputs(prefix: str, found: Instances, masks: Tensor, geometry: OutputGeometry) -> Outputs:
    """Sorted by score; and, for each mask, how many pixels lie so near its edge that rounding decides about them."""
    order = found.scores.argsort(descending=True)
    resized = geometry.resize(masks)
    near = (resized.abs() <= SLACK * 1e-4 * resized.abs().max()).any(0)
    pred_masks = found.pred_masks[order]
    return {
        f"{prefix}/scores": found.scores[order],
        f"{prefix}/classes": found.pred_classes[order],
        f"{prefix}/masks_packed": pred_masks,
        f"{prefix}/masks_area": pred_masks.sum((1, 2), dtype=torch.float32),
        f"{prefix}/borderline": near,
        f"{prefix}/masks_shape": pred_masks.shape,  # of all; the golden's counts those that it keeps
    }


def segment_rows(segments: list[dict[str, Any]]) -> list[list[int]]:
    """The number, the class, and whether it is a thing, of each segment."""
    return [[one["id"], one["category_id"], int(one["isthing"])] for one in segments]
