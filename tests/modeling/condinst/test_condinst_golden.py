"""CondInst against the published implementation: every number of tests/golden/condinst (docs/parity/condinst.md)."""

import functools
import importlib
import json
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import load_config
from adet_iuq.modeling.condinst import CondInst
from adet_iuq.modeling.condinst.fcos_losses import centerness_targets
from adet_iuq.modeling.condinst.fcos_targets import GroundTruth, assign_targets
from adet_iuq.modeling.condinst.mask_head import DynamicQueries
from adet_iuq.modeling.layers import aligned_bilinear, instance_masks, mask_centroids, pasted_masks, strided_masks
from helpers.golden import (
    DEVICE,
    Golden,
    as_array,
    assert_close,
    assert_masks,
    fill,
    golden_dir,
    load_golden,
    recipe_path,
)

pytestmark = pytest.mark.golden

TRAIN = ("train", "train_empty", "train_variant")
INFERENCE = ("inference", "inference_topk")
PROBABILITY = 2e-3  # tolerance of mask probabilities
CASES = ("features", *TRAIN, *INFERENCE)
RECIPES = {"r50": "R50_1x", "r101": "R101_1x", "r50_sem": "R50_3x_sem", "r101_sem": "R101_3x_sem"}


def build(recipe: str, overrides: list[Any]) -> CondInst:
    cfg = load_config(recipe, overrides).cfg
    cfg.MODEL.DEVICE = str(DEVICE)
    return build_model(cfg)


def batch(golden: Golden) -> list[dict[str, Any]]:
    inputs = []
    for arrays in golden.inputs:
        image = torch.as_tensor(arrays["image"])
        instances = Instances((image.shape[1], image.shape[2]))
        instances.gt_boxes = Boxes(torch.as_tensor(arrays["gt_boxes"]))
        instances.gt_classes = torch.as_tensor(arrays["gt_classes"])
        instances.gt_masks = BitMasks(torch.as_tensor(arrays["gt_masks"]))
        inputs.append({"image": image, "instances": instances})
    return inputs


@functools.cache
def case(name: str) -> tuple[Golden, dict[str, np.ndarray]]:
    """A golden and what this project computes from its inputs, under the golden's names."""
    golden = load_golden("condinst", name)
    model = build(str(recipe_path(golden.meta["config"])), golden.meta["overrides"])
    fill(model, golden.meta["seed"], golden.meta["fill_constants"])
    model.train(golden.meta["mode"] == "train")
    compute = compute_train if name in TRAIN else compute_inference if name in INFERENCE else compute_features
    return golden, {key: as_array(value) for key, value in compute(model, golden).items()}


@torch.no_grad()
def compute_features(model: CondInst, golden: Golden) -> dict[str, Any]:
    images = model.preprocess(batch(golden))
    features = model.backbone(images.tensor)
    maps = model.proposal_generator(features)
    mask_features = model.mask_branch(features)
    locations = model.proposal_generator.locations(maps)
    controller = [model.controller(box_features) for box_features in maps.box_features]
    outputs: dict[str, Any] = {"padded_size": images.tensor.shape[-2:], "mask_feats": mask_features}
    for level, name in enumerate(model.proposal_generator.in_features):
        outputs |= {
            f"{name}_every8": features[name][:, ::8],
            f"logits_{level}": maps.logits[level],
            f"reg_{level}": maps.regression[level],
            f"ctrness_{level}": maps.quality[level],
            f"controller_{level}": controller[level],
            f"locations_{level}": locations[level],
        }
    queries = torch.as_tensor(golden.outputs["queries"], device=DEVICE)
    rows = [(controller[le].flatten(2)[im, :, ce], locations[le][ce]) for im, le, ce in queries.tolist()]
    params, points = (torch.stack(part) for part in zip(*rows, strict=True))
    dynamic = DynamicQueries(params, points, model.mask_head.scales(queries[:, 1]))
    logits = model.mask_head.retrieve_map(dynamic, queries[:, 0], mask_features)
    return outputs | {
        "queries": queries,
        "mask_logits": aligned_bilinear(logits[:, None], model.mask_head.factor)[:, 0],
    }


def compute_train(model: CondInst, golden: Golden) -> dict[str, Any]:
    inputs = batch(golden)
    losses = model(inputs)
    torch.stack(list(losses.values())).sum().backward()
    outputs: dict[str, Any] = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            outputs[f"grad_norm/{name}"] = parameter.grad.norm()
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            outputs[f"running_mean/{name}"] = module.running_mean.clone()
    return outputs | targets(model, inputs)


@torch.no_grad()
def targets(model: CondInst, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    fcos = model.proposal_generator
    images = model.preprocess(inputs)
    locations = fcos.locations(fcos(model.backbone(images.tensor)))
    instances = [one["instances"].to(DEVICE) for one in inputs]
    masks = [instance_masks(one) for one in instances]
    truths = [
        GroundTruth(i.gt_boxes.tensor, i.gt_classes, mask_centroids(m)) for i, m in zip(instances, masks, strict=True)
    ]
    labels, positives = assign_targets(
        locations, fcos.strides, fcos.sizes_of_interest, truths, fcos.num_classes, fcos.radius
    )
    before = torch.tensor([0, *(len(i) for i in instances)], device=DEVICE).cumsum(0)
    stride = model.mask_head.out_stride
    size = (images.tensor.shape[2] // stride, images.tensor.shape[3] // stride)
    bitmasks = torch.cat([strided_masks(m, stride, size) for m in masks]).bool()
    return {
        "labels": labels,
        "positive_gt_inds": positives.instance + before[positives.image],
        "positive_reg_targets": positives.targets,
        "positive_levels": positives.level,
        "positive_images": positives.image,
        "positive_ctrness_targets": centerness_targets(positives.targets),
        "gt_bitmasks": np.packbits(as_array(bitmasks)),
        "gt_bitmasks_shape": bitmasks.shape,
    }


@torch.no_grad()
def compute_inference(model: CondInst, golden: Golden) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    for index, (one, wished) in enumerate(zip(batch(golden), golden.meta["output_sizes"], strict=True)):
        inputs = [{"image": one["image"], "height": wished[0], "width": wished[1]}]
        found = model(inputs)[0]["instances"]
        images = model.preprocess(inputs)
        features = model.backbone(images.tensor)
        maps = model.proposal_generator(features)
        detections = model.proposal_generator.detections(maps)[0][torch.arange(10)]
        probabilities, which = model._probabilities(maps, model.mask_branch(features), 0, detections)
        outputs |= {
            f"scores_{index}": found.scores,
            f"classes_{index}": found.pred_classes,
            f"boxes_{index}": found.pred_boxes.tensor,
            f"locations_{index}": found.locations,
            f"levels_{index}": found.fpn_levels,
            f"masks_{index}": found.pred_masks,
            f"borderline_{index}": borderline(model, inputs),
            f"masks_shape_{index}": found.pred_masks.shape,
            f"probs_stride4_top10_{index}": probabilities[which],
        }
    return outputs


def borderline(model: CondInst, inputs: list[dict[str, Any]]) -> torch.Tensor:
    """(N, height, width) bool: mask pixels whose probability is within the tolerance of probabilities of 0.5."""
    module = importlib.import_module("adet_iuq.modeling.condinst.condinst")
    masks = []
    for threshold in (0.5 - PROBABILITY, 0.5 + PROBABILITY):
        with mock.patch.object(module, "pasted_masks", functools.partial(pasted_masks, threshold=threshold)):
            masks.append(model(inputs)[0]["instances"].pred_masks)
    return masks[0] & ~masks[1]


def rule(key: str) -> tuple[str, float]:
    """How an output is compared: kind and tolerance, docs/parity/condinst.md, "How near it is"."""
    head = key.split("/")[0]
    exact = {"loss": ("relative", 1e-5), "grad_norm": ("relative", 1e-4), "running_mean": ("absolute", 1e-6)}
    if head in exact:
        return exact[head]
    if key.startswith(("positive_reg", "positive_ctrness", "scores_")):
        return "absolute", 1e-5
    if key.startswith("boxes_"):
        return "absolute", 1e-3
    if key.startswith("probs_"):
        return "absolute", PROBABILITY
    if key.startswith(("logits_", "reg_", "ctrness_", "controller_", "mask_", "p")) and not key.startswith(
        ("pos", "pad")
    ):
        return "scale", 2e-5
    return "equal", 0.0


def compare(key: str, computed: dict[str, np.ndarray], golden: np.ndarray) -> None:
    if key.startswith("masks_") and "shape" not in key:
        assert_masks(key, computed[key], golden, computed[key.replace("masks", "borderline")])
    else:
        assert_close(key, computed[key], golden, *rule(key))


@pytest.mark.parametrize("name", CASES)
def test_condinst_equals_published(name: str) -> None:
    golden, computed = case(name)
    missing = [key for key in golden.outputs if key not in computed]
    assert not missing, f"nothing here computes {missing}"
    for key, value in golden.outputs.items():
        compare(key, computed, value)
    losses = {key for key in golden.outputs if key.startswith("loss/")}
    assert losses == {key for key in computed if key.startswith("loss/")}


@pytest.mark.parametrize("name", CASES)
def test_condinst_golden_can_fail(name: str) -> None:
    """One per cent on any float output, or one element of any other, is noticed."""
    golden, computed = case(name)
    for key, value in golden.outputs.items():
        wrong = value.copy()
        if wrong.dtype.kind == "f":
            wrong *= 1.01
            if np.array_equal(wrong, value):  # all zero
                continue
        else:
            flat = wrong.reshape(-1)
            flat[flat.size // 2] ^= 1
        with pytest.raises(AssertionError):
            compare(key, computed, wrong)


@pytest.mark.parametrize("recipe", RECIPES)
def test_condinst_parameters_equal_published(recipe: str) -> None:
    expected = json.loads((golden_dir("condinst") / f"params_{recipe}.json").read_text())
    model = build(str(recipe_path(f"configs/CondInst/{RECIPES[recipe]}.yaml")), [])
    parameters = dict(model.named_parameters())
    found = {}
    for name, tensor in model.state_dict().items():
        kind = "buffer"
        if name in parameters:
            kind = "parameter" if parameters[name].requires_grad else "frozen parameter"
        found[name] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), "kind": kind}
    assert found.keys() == expected.keys()
    assert found == expected
