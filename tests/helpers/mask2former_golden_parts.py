"""What Mask2Former's parts, each alone, compute from the inputs of their golden files, under the golden's names."""

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor

from adet_iuq.config import load_config
from adet_iuq.modeling.layers import MSDeformAttn
from adet_iuq.modeling.mask2former.inference import OutputGeometry
from adet_iuq.modeling.mask2former.matcher import Targets
from adet_iuq.modeling.mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from adet_iuq.modeling.mask2former.transformer_decoder import MultiScaleMaskedTransformerDecoder, Prediction
from helpers.golden import DEVICE, REPOSITORY, Golden
from helpers.mask2former_golden import (
    Outputs,
    build,
    instance_outputs,
    match_rows,
    segment_rows,
    set_points,
    with_golden_weights,
)


def compute_msdeform(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
    """Deformable attention: output and gradients."""
    query, value = inputs["query"].requires_grad_(), inputs["input_flatten"].requires_grad_()
    layer = with_golden_weights(MSDeformAttn(query.shape[2], len(inputs["spatial_shapes"]), 8, 4), golden.meta)
    sizes = [(h, w) for h, w in inputs["spatial_shapes"].tolist()]
    output = layer(query, inputs["reference_points"], value, sizes)
    (output * inputs["grad_output"]).sum().backward()
    outputs: Outputs = {"output": output, "grad_query": query.grad, "grad_input_flatten": value.grad}
    for name, parameter in layer.named_parameters():
        grad = parameter.grad
        outputs[f"grad/{name}"] = grad if grad.dim() == 1 else torch.stack([grad.sum(1), grad.abs().sum(1)], dim=1)
    return outputs


@torch.no_grad()
def compute_pixel_decoder(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
    """The mask features and the maps."""
    finest = inputs["res2"].shape[2]
    shapes = {name: ShapeSpec(channels=one.shape[1], stride=4 * finest // one.shape[2]) for name, one in inputs.items()}
    cfg = load_config(str(REPOSITORY / "configs/Mask2Former/R50_50ep.yaml")).cfg
    decoder = with_golden_weights(MSDeformAttnPixelDecoder(cfg, shapes), golden.meta)
    mask_features, maps = decoder(inputs)
    return {"mask_features": mask_features} | {f"multi_scale_{level}": one for level, one in enumerate(maps)}


@torch.no_grad()
def compute_transformer_decoder(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
    """Logits and masks of every prediction."""
    queries = str(golden.outputs["logits"].shape[2])
    options = ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", queries]
    cfg = load_config(str(REPOSITORY / "configs/Mask2Former/R50_50ep.yaml"), options).cfg
    decoder = with_golden_weights(MultiScaleMaskedTransformerDecoder(cfg), golden.meta)
    predictions = decoder([inputs[f"multi_scale_{level}"] for level in range(3)], inputs["mask_features"])
    return {
        "logits": torch.stack([one.logits for one in predictions]),
        "masks": torch.stack([one.masks(inputs["mask_features"]) for one in predictions]),
    }


def compute_criterion(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
    """The golden gives whole masks: they are the mask features here, and query q's embedding picks channel q."""
    outputs: Outputs = {}
    labels = [inputs[f"labels_{image}"] for image in range(3)]
    targets = [Targets(one, inputs[f"masks_{image}"]) for image, one in enumerate(labels)]
    frame = (targets[0].masks.shape[1], targets[0].masks.shape[2])
    points = len(inputs["points"])
    names = ("0", "final")
    for mode in ("fixed", "importance"):
        criterion = build("R50_50ep", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", points).criterion
        set_points(criterion, inputs)
        if mode == "fixed":
            criterion.importance_ratio = 0.0
        for layer in names:
            inputs[f"pred_logits/{layer}"].grad = inputs[f"pred_masks/{layer}"].grad = None
        logits = [inputs[f"pred_logits/{layer}"].requires_grad_() for layer in names]
        masks = [inputs[f"pred_masks/{layer}"].requires_grad_() for layer in names]
        picks = torch.eye(2 * masks[0].shape[1], device=DEVICE).expand(3, -1, -1).chunk(2, dim=1)
        predictions = [Prediction(*pair) for pair in zip(logits, picks, strict=True)]
        mask_features = torch.cat(masks, dim=1)
        losses, matches = criterion(predictions, mask_features, targets, frame)
        torch.stack(list(losses.values())).sum().backward()
        outputs |= {f"loss_{mode}/{name}": loss for name, loss in losses.items()}
    for number, (layer, prediction) in enumerate(zip(names, predictions, strict=True)):
        outputs |= match_rows(matches, layer, number)
        outputs[f"grad_logits/{layer}"] = inputs[f"pred_logits/{layer}"].grad
        grad_masks = inputs[f"pred_masks/{layer}"].grad
        assert grad_masks is not None
        outputs[f"grad_masks/{layer}"] = grad_masks[:, :, ::2, ::2]
        for image, target in enumerate(targets):
            one = (prediction.logits[None, image], prediction.embeddings[None, image], mask_features[image])
            outputs[f"cost/{layer}/{image}"] = criterion.matcher.costs(*one, target, frame)[0]
    return outputs


@torch.no_grad()
def compute_inference(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
    """Instances, of things only and of all classes, panoptic segments and a semantic map."""
    model = build("R50_panoptic_50ep")
    logits, masks = inputs["pred_logits"][0], inputs["pred_masks"][0]
    padded, image, output = (
        (int(h), int(w)) for h, w in (inputs[f"{kind}_size"] for kind in ("padded", "image", "output"))
    )
    geometry = OutputGeometry(padded, image, output)
    found = model.results(logits, masks, geometry)
    segmentation, segments = found["panoptic_seg"]
    instance_model = build("R50_50ep")
    every = instance_model.results(logits, masks, geometry)["instances"]
    return {
        **instance_outputs("things_only", found["instances"], masks, geometry),
        **instance_outputs("all_classes", every, masks, geometry),
        "panoptic/panoptic_seg": segmentation,
        "panoptic/segments_info": segment_rows(segments),
        "sem_seg_8": found["sem_seg"][:, ::8, ::8],
    }
