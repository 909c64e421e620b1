"""Mask2Former against the published implementation: every number of tests/golden/mask2former but those of Swin with
window 12, the optimiser and the data mappers (docs/parity/mask2former.md)."""

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import BitMasks, Instances
from torch import Tensor, nn

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import load_config
from adet_iuq.modeling.layers import MSDeformAttn
from adet_iuq.modeling.mask2former import MaskFormer
from adet_iuq.modeling.mask2former.criterion import SetCriterion
from adet_iuq.modeling.mask2former.inference import OutputGeometry
from adet_iuq.modeling.mask2former.matcher import Matches, Targets
from adet_iuq.modeling.mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from adet_iuq.modeling.mask2former.transformer_decoder import MultiScaleMaskedTransformerDecoder, Prediction
from helpers.golden import DEVICE, REPOSITORY, SLACK, Golden, as_array, assert_close, fill, golden_dir, load_golden

pytestmark = pytest.mark.golden

Outputs = dict[str, Any]
RECIPES = {
    "COCO instance R50": "R50_50ep",
    "COCO panoptic R50": "R50_panoptic_50ep",
    "COCO instance Swin-S": "SwinS_50ep",
}
PARAMETERS = {
    "r50": "R50_50ep",
    "r101": "R101_50ep",
    "r50_panoptic": "R50_panoptic_50ep",
    "swin_small": "SwinS_50ep",
    "swin_base": "SwinB_50ep",
    "swin_large": "SwinL_100ep",
    "swin_large_panoptic": "SwinL_panoptic_100ep",
}
MODULES = ("msdeform", "pixel_decoder", "transformer_decoder", "criterion", "inference")
CASES = (*MODULES, "r50_instance", "r50_panoptic", "swin_small")


def build(recipe: str, *overrides: Any) -> MaskFormer:
    cfg = load_config(str(REPOSITORY / f"configs/Mask2Former/{recipe}.yaml"), list(overrides)).cfg
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = str(DEVICE), ""
    return build_model(cfg)


def with_golden_weights(module: nn.Module, meta: dict[str, Any]) -> Any:
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
    criterion.source = criterion.matcher.source = stored_points(inputs)


@functools.cache
def case(name: str) -> tuple[Golden, Outputs]:
    """A golden and what this project computes from its inputs, under the golden's names."""
    golden = load_golden("mask2former", name)
    compute = {
        "msdeform": compute_msdeform,
        "pixel_decoder": compute_pixel_decoder,
        "transformer_decoder": compute_transformer_decoder,
        "criterion": compute_criterion,
        "inference": compute_inference,
    }.get(name, compute_model)
    outputs = compute(golden, extra_inputs(name))
    return golden, {key: as_array(value) for key, value in outputs.items()}


def compute_msdeform(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
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
    finest = inputs["res2"].shape[2]
    shapes = {name: ShapeSpec(channels=one.shape[1], stride=4 * finest // one.shape[2]) for name, one in inputs.items()}
    cfg = load_config(str(REPOSITORY / "configs/Mask2Former/R50_50ep.yaml")).cfg
    decoder = with_golden_weights(MSDeformAttnPixelDecoder(cfg, shapes), golden.meta)
    mask_features, maps = decoder(inputs)
    return {"mask_features": mask_features} | {f"multi_scale_{level}": one for level, one in enumerate(maps)}


@torch.no_grad()
def compute_transformer_decoder(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
    queries = str(golden.outputs["logits"].shape[2])
    options = ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", queries]
    cfg = load_config(str(REPOSITORY / "configs/Mask2Former/R50_50ep.yaml"), options).cfg
    decoder = with_golden_weights(MultiScaleMaskedTransformerDecoder(cfg), golden.meta)
    predictions = decoder([inputs[f"multi_scale_{level}"] for level in range(3)], inputs["mask_features"])
    return {
        "logits": torch.stack([one.logits for one in predictions]),
        "masks": torch.stack([one.masks(inputs["mask_features"]) for one in predictions]),
    }


def match_rows(matches: Matches, layer: str) -> Outputs:
    queries, targets = (part.split(matches.counts) for part in (matches.query, matches.target))
    return {
        f"match/{layer}/{image}": torch.stack(pair) for image, pair in enumerate(zip(queries, targets, strict=True))
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
    for layer, prediction, match in zip(names, predictions, matches, strict=True):
        outputs |= match_rows(match, layer)
        outputs[f"grad_logits/{layer}"] = inputs[f"pred_logits/{layer}"].grad
        grad_masks = inputs[f"pred_masks/{layer}"].grad
        assert grad_masks is not None
        outputs[f"grad_masks/{layer}"] = grad_masks[:, :, ::2, ::2]
        for image, target in enumerate(targets):
            cost = criterion.matcher.costs([prediction], image, mask_features[image : image + 1], target, frame)[0]
            outputs[f"cost/{layer}/{image}"] = cost
    return outputs


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
    return [[one["id"], one["category_id"], int(one["isthing"])] for one in segments]


@torch.no_grad()
def compute_inference(golden: Golden, inputs: dict[str, Tensor]) -> Outputs:
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


def batch(golden: Golden) -> list[dict[str, Any]]:
    inputs = []
    for arrays, (height, width) in zip(golden.inputs, golden.meta["output_sizes"], strict=True):
        image = torch.as_tensor(arrays["image"])
        instances = Instances((image.shape[1], image.shape[2]))
        instances.gt_classes = torch.as_tensor(arrays["gt_classes"])
        instances.gt_masks = BitMasks(torch.as_tensor(arrays["gt_masks"]))
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs


def channel_statistics(maps: Tensor) -> Tensor:
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
    outputs: Outputs = {}
    ratio = model.criterion.importance_ratio
    for mode, value in (("fixed", 0.0), ("importance", ratio)):
        model.criterion.importance_ratio = value
        inputs = batch(golden)
        images = model.preprocess(inputs)
        frame = (images.tensor.shape[2], images.tensor.shape[3])
        losses, matches = model.criterion(*model._predictions(images), model.targets(inputs), frame)
        outputs |= {f"loss_{mode}/{name}": loss for name, loss in losses.items()}
    for index, match in enumerate(matches):
        outputs |= match_rows(match, "final" if index == len(matches) - 1 else str(index))
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    names = [str(name) for name in golden.outputs["grad_names"]]
    assert set(names) <= set(gradients), f"no gradient for {set(names) - set(gradients)}"
    return outputs | {
        "grad_names": list(gradients) if set(gradients) != set(names) else names,
        "grad_norms": torch.stack([gradients[name] for name in names]),
        "grad_norm_total": torch.stack(list(gradients.values())).norm(),
    }


def tolerance(key: str) -> float:
    """Largest difference over the largest magnitude of the array, docs/parity/mask2former.md, "How near it is"."""
    if key.startswith(("cost", "loss", "output", "grad_query", "grad_input", "grad/")):
        return 1e-5
    return 1e-3 if key.startswith(("grad_norm",)) else 1e-4


def compare(name: str, key: str, computed: Outputs, golden: Outputs) -> None:
    """`golden` holds all outputs of the file: instances are compared with those of the same score and class."""
    prefix, _, kind = key.rpartition("/")
    if kind == "masks_packed":
        assert_packed_masks(key, computed[key], golden[key], computed[f"{prefix}/borderline"])
    elif kind == "masks_shape":
        kept = len(golden[f"{prefix}/masks_packed"])
        assert_close(key, np.array([kept, *computed[key][1:]]), golden[key], "equal")
    elif kind in ("scores", "classes", "masks_area"):
        assert_instances(prefix, kind, computed, golden)
    elif golden[key].dtype.kind == "f":
        limit = 1e-4 if name == "criterion" and not key.startswith("cost") else tolerance(key)
        assert_close(key, computed[key], golden[key], "scale", limit)
    else:
        assert_close(key, computed[key], golden[key], "equal")


def assert_instances(prefix: str, kind: str, computed: Outputs, golden: Outputs) -> None:
    """One by one in the order of class and score: far down the list close scores of different classes may swap."""
    ours, theirs = (
        {k: side[f"{prefix}/{k}"] for k in ("scores", "classes", "masks_area")} for side in (computed, golden)
    )
    assert all(len(ours[k]) == len(theirs[k]) for k in theirs), f"{prefix}: {len(ours['scores'])} instances"
    orders = [np.lexsort((side["scores"], side["classes"])) for side in (ours, theirs)]
    computed_values, golden_values = (side[kind][order] for side, order in zip((ours, theirs), orders, strict=True))
    rules = {"scores": ("relative", 1e-4), "classes": ("equal", 0.0), "masks_area": ("absolute", 5.0)}
    assert_close(f"{prefix}/{kind}", computed_values, golden_values, *rules[kind])


def assert_packed_masks(key: str, computed: np.ndarray, packed: np.ndarray, borderline: np.ndarray) -> None:
    """The best masks, packed one by one: at most 5 pixels of each differ, and only such as rounding decides about."""
    pixels = computed[0].size
    bits = np.unpackbits(packed, axis=1).astype(bool)
    assert not bits[:, pixels:].any(), f"{key}: bits set beyond the masks"
    wrong = computed[: len(packed)] != bits[:, :pixels].reshape(len(packed), *computed.shape[1:])
    assert wrong.sum((1, 2)).max() <= 5, f"{key}: {wrong.sum((1, 2)).max()} pixels of a mask differ"
    assert not (wrong & ~borderline).any(), f"{key}: {(wrong & ~borderline).sum()} pixels differ by more than rounding"


@pytest.mark.parametrize("name", CASES)
def test_mask2former_equals_published(name: str) -> None:
    golden, computed = case(name)
    missing = [key for key in golden.outputs if key not in computed]
    assert not missing, f"nothing here computes {missing}"
    for key in golden.outputs:
        compare(name, key, computed, golden.outputs)
    losses = {key for key in golden.outputs if key.startswith("loss_")}
    assert losses == {key for key in computed if key.startswith("loss_")}


@pytest.mark.parametrize("name", CASES)
def test_mask2former_golden_can_fail(name: str) -> None:
    """One per cent on any float output, or one element of any other, is noticed."""
    golden, computed = case(name)
    for key, value in golden.outputs.items():
        wrong = value.copy()
        if value.size == 0:
            continue
        if wrong.dtype.kind == "f":
            wrong *= 1.01
            if np.array_equal(wrong, value):  # all zero
                continue
        elif wrong.dtype.kind == "U":
            wrong.reshape(-1)[wrong.size // 2] = "another"
        else:
            wrong.reshape(-1)[wrong.size // 2] ^= 1
        with pytest.raises(AssertionError):
            compare(name, key, computed, {**golden.outputs, key: wrong})


@pytest.mark.parametrize("recipe", PARAMETERS)
def test_mask2former_parameters_equal_published(recipe: str) -> None:
    expected = json.loads((golden_dir("mask2former") / f"params_{recipe}.json").read_text())
    with torch.device("meta"):  # names and shapes, no memory
        cfg = load_config(str(REPOSITORY / f"configs/Mask2Former/{PARAMETERS[recipe]}.yaml")).cfg
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    parameters = dict(model.named_parameters())
    found = {}
    for name, tensor in model.state_dict().items():
        kind = "buffer"
        if name in parameters:
            kind = "parameter" if parameters[name].requires_grad else "frozen parameter"
        found[name] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "kind": kind}
    assert found.keys() == expected.keys()
    assert found == expected
