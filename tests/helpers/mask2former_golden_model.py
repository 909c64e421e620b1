"""What whole Mask2Former models compute from the images of their golden files, under the golden's names."""

import re
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from adet_iuq.modeling.mask2former import MaskFormer
from adet_iuq.modeling.mask2former.inference import OutputGeometry
from helpers.golden import Golden
from helpers.mask2former_golden import (
    Outputs,
    build,
    instance_outputs,
    match_rows,
    segment_rows,
    set_points,
    with_golden_weights,
)

RECIPES = {
    "COCO instance R50": "R50_50ep",
    "COCO panoptic R50": "R50_panoptic_50ep",
    "COCO instance Swin-S": "SwinS_50ep",
}


def batch(golden: Golden) -> list[dict[str, Any]]:
    """The model's inputs, annotated."""
    inputs = []
    for arrays, (height, width) in zip(golden.inputs, golden.meta["output_sizes"], strict=True):
        image = torch.as_tensor(arrays["image"])
        instances = Instances((image.shape[1], image.shape[2]))
        instances.gt_classes = torch.as_tensor(arrays["gt_classes"])
        instances.gt_masks = BitMasks(torch.as_tensor(arrays["gt_masks"]))
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs


def channel_statistics(maps: Tensor) -> Tensor:
    """Mean and mean magnitude of every channel, (C, 2)."""
    return torch.stack([maps.mean((0, 2, 3)), maps.abs().mean((0, 2, 3))], dim=1)


def compute_model(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
    """A whole model: features, predictions and results; losses and gradients where the golden has points for them."""
    model = with_golden_weights(build(RECIPES[golden.meta["base"]], *golden.meta["opts"]), golden.meta).eval()
    with torch.no_grad():
        outputs = compute_forward(model, golden)
    if "points" in inputs:
        set_points(model.criterion, inputs)
        outputs |= compute_losses(model.train(), golden)
    return outputs


def compute_forward(model: MaskFormer, golden: Golden) -> Outputs:
    """Features, maps, predictions and results."""
    outputs: Outputs = {}
    images = model.preprocess(batch(golden))
    features = model.backbone(images.tensor)
    for name, one in features.items():
        outputs[f"backbone/{name}"] = one[:, :: 16 if name == "res2" else 32]
        outputs[f"backbone_stats/{name}"] = channel_statistics(one)
    mask_features, maps = model.sem_seg_head.pixel_decoder(features)
    named = {"mask_features": mask_features} | {f"multi_scale_{level}": one for level, one in enumerate(maps)}
    for name, one in named.items():
        outputs[name] = one[:, :: golden.meta["channel_step"]]
        outputs[re.sub(r"(_\d)?$", r"_stats\1", name, count=1)] = channel_statistics(one)
    predictions = model.sem_seg_head.predictor(maps, mask_features)
    masks = torch.stack([one.masks(mask_features) for one in predictions])
    outputs["logits"] = torch.stack([one.logits for one in predictions])
    outputs["masks_2"] = masks[..., ::2, ::2]
    outputs["masks_final"] = masks[-1]
    padded = (images.tensor.shape[2], images.tensor.shape[3])
    for index, found in enumerate(model(batch(golden))):
        height, width = images.image_sizes[index]
        output_height, output_width = golden.meta["output_sizes"][index]
        geometry = OutputGeometry(padded, (height, width), (output_height, output_width))
        outputs |= instance_outputs(f"instances_{index}", found["instances"], masks[-1, index], geometry)
        if "panoptic_seg" in found:
            outputs[f"panoptic_{index}/panoptic_seg"] = found["panoptic_seg"][0]
            outputs[f"panoptic_{index}/segments_info"] = segment_rows(found["panoptic_seg"][1])
            outputs[f"sem_seg_{index}_16"] = found["sem_seg"][:, ::16, ::16]
    return outputs


def compute_losses(model: MaskFormer, golden: Golden) -> Outputs:
    """Losses with points of both kinds, matches, and gradient norms."""
    outputs: Outputs = {}
    ratio = model.criterion.importance_ratio
    for mode, value in (("fixed", 0.0), ("importance", ratio)):
        model.criterion.importance_ratio = value
        inputs = batch(golden)
        images = model.preprocess(inputs)
        frame = (images.tensor.shape[2], images.tensor.shape[3])
        losses, matches = model.criterion(*model._predictions(images), model.targets(inputs), frame)
        outputs |= {f"loss_{mode}/{name}": loss for name, loss in losses.items()}
    for index in range(len(matches)):
        outputs |= match_rows(matches, "final" if index == len(matches) - 1 else str(index), index)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    names = [str(name) for name in golden.outputs["grad_names"]]
    assert set(names) <= set(gradients), f"no gradient for {set(names) - set(gradients)}"
    return outputs | {
        "grad_names": list(gradients) if set(gradients) != set(names) else names,
        "grad_norms": torch.stack([gradients[name] for name in names]),
        "grad_norm_total": torch.stack(list(gradients.values())).norm(),
    }
