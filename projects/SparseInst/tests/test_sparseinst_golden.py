"""SparseInst against the published implementation: every number of the golden files beside this one, or in $GOLDEN_DIR.

Tolerances are for float32 on a CPU, |a - b| <= atol + rtol * max|b|. The published code itself moves by 4e-6 (class logits)
and 2e-4 (mask logits, which reach 135) with the number of threads, and by as much against float64.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from adet_iuq.modeling.layers import instance_masks
from helpers.golden import Golden, assert_close, fill, golden_dir, load_golden
from projects.SparseInst.criterion import mask_ious
from projects.SparseInst.targets import Targets, dice_scores, of_pairs, soft_masks
from projects.SparseInst.tests.conftest import built

pytestmark = pytest.mark.golden

Outputs = dict[str, np.ndarray]
CASES = ("heads", "heads_base", "heads_giam_soft", "losses", "criterion", "inference")
PARAMETERS = sorted(path.stem.removeprefix("params_") for path in golden_dir("sparseinst").glob("params_*.json"))


def recipe(published: str) -> str:
    """This project's name of a published recipe."""
    return published.removeprefix("sparse_inst_").replace("r", "R", 1)


def pairs(golden: Golden) -> list[Any]:
    overrides = {**golden.meta["overrides"], "MODEL.DEVICE": "cpu", "MODEL.TIMM.PRETRAINED": False}
    return [str(part) for pair in overrides.items() for part in pair]


@functools.cache
def case(name: str) -> tuple[Golden, Outputs]:
    """A golden and what this project computes from its inputs, under the golden's names."""
    golden = load_golden("sparseinst", name)
    model = built(recipe(golden.meta["config"]), pairs(golden))
    fill(model, golden.meta["fill"]["seed"], golden.meta["fill"]["constants"])
    model.train(golden.meta["mode"] == "train")
    compute: dict[str, Callable[[Any, Golden], dict[str, Any]]] = {
        "losses": compute_losses, "criterion": compute_criterion, "inference": compute_inference,
    }  # fmt: skip
    found = compute.get(name, compute_heads)(model, golden)
    return golden, {key: np.asarray(torch.as_tensor(value).detach()) for key, value in found.items()}


def images_of(golden: Golden) -> list[dict[str, Any]]:
    return [{"image": torch.as_tensor(one["image"])} for one in golden.inputs]


def instances_of(arrays: dict[str, np.ndarray]) -> Instances:
    masks = torch.as_tensor(arrays["gt_masks"])
    instances = Instances((masks.shape[1], masks.shape[2]))
    instances.gt_boxes = Boxes(torch.as_tensor(arrays["gt_boxes"]))
    instances.gt_classes = torch.as_tensor(arrays["gt_classes"])
    instances.gt_masks = BitMasks(masks)
    return instances


def thinned(full: torch.Tensor, wanted: np.ndarray) -> torch.Tensor:
    """Every so many-th row of axis 1, as many as are wanted."""
    return full[:, :: -(-full.shape[1] // wanted.shape[1])]


@torch.no_grad()
def compute_heads(model: Any, golden: Golden) -> dict[str, Any]:
    """All that the network predicts, part by part."""
    seen: dict[str, torch.Tensor] = {}
    parts = {"encoded": model.encoder, "iam": model.decoder.inst_branch.iam_conv}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name, module in parts.items()
    ]
    images = model.preprocess(images_of(golden))
    found = model.predict(images)
    features = model.backbone(images.tensor)
    for hook in hooks:
        hook.remove()
    masks = torch.einsum("bnd,bdhw->bnhw", found.kernels, found.features)
    outputs = {
        **seen,
        **{f"feature_{name}": one for name, one in features.items()},
        "mask_features": found.features,
        "pred_masks": torch.nn.functional.interpolate(masks, scale_factor=2, mode="bilinear"),
    }
    return {key: thinned(one, golden.outputs[key]) for key, one in outputs.items()} | {
        "normalised_mean": images.tensor.mean((2, 3)),
        "pred_logits": found.class_logits,
        "pred_kernel": found.kernels,
        "pred_scores": found.objectness[..., None],
    }


def assignment(matches: Any) -> dict[str, Any]:
    return {
        f"match_{name}_{image}": part
        for name, index in (("query", matches.query), ("target", matches.target))
        for image, part in enumerate(index.split(matches.counts))
    }


def compute_losses(model: Any, golden: Golden) -> dict[str, Any]:
    """From the image to losses and gradients."""
    outputs: dict[str, Any] = {}
    match = model.match

    def listen(found: Any, targets: Any) -> Any:
        matches = match(found, targets)
        outputs.update({"pred_logits": found.class_logits, "pred_scores": found.objectness[..., None]})
        outputs.update(assignment(matches))
        return matches

    model.match = listen
    inputs = [{**one, "instances": instances_of(a)} for one, a in zip(images_of(golden), golden.inputs, strict=True)]
    losses = model(inputs)
    torch.stack(list(losses.values())).sum().backward()
    parameters = dict(model.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    names = [key.removeprefix("grad_norm/") for key in golden.outputs if key.startswith("grad_norm/")]
    norms = {f"grad_norm/{name}": parameters[name].grad.norm() for name in names}
    return outputs | norms | {f"loss/{name}": loss for name, loss in losses.items()}


def compute_criterion(model: Any, golden: Golden) -> dict[str, Any]:
    """Matcher and losses alone, from stored outputs of the heads."""
    given = {key: torch.as_tensor(one).float() for key, one in golden.outputs.items() if key.startswith("in/")}
    logits, masks = given["in/pred_logits"].requires_grad_(), given["in/pred_masks"].requires_grad_()
    scores = given["in/pred_scores"].requires_grad_()
    size = (masks.shape[2], masks.shape[3])
    instances = [instances_of(arrays) for arrays in golden.inputs]
    targets = [Targets(one.gt_classes, soft_masks(instance_masks(one), size)) for one in instances]

    def run(targets: list[Targets]) -> tuple[Any, dict[str, torch.Tensor]]:
        matches = model.matcher(logits, masks, targets)
        matched = masks[matches.image, matches.query]
        return matches, model.criterion(logits, scores[..., 0], matched, matches, targets)

    matches, losses = run(targets)
    torch.stack(list(losses.values())).sum().backward()
    none = Targets(targets[1].labels[:0], targets[1].masks[:0])
    _, without = run([targets[0], none])
    wanted = torch.cat([one.masks for one in targets])
    matched = masks[matches.image, matches.query]
    assert logits.grad is not None and masks.grad is not None and scores.grad is not None
    return {
        **given,
        **assignment(matches),
        **{f"loss/{name}": loss for name, loss in losses.items()},
        **{f"empty_second/{name}": loss for name, loss in without.items()},
        "grad/pred_logits": logits.grad,
        "grad/pred_masks": masks.grad.flatten(2).norm(dim=2),
        "grad/pred_scores": scores.grad,
        "dice_score": torch.stack([dice_scores(one.flatten(1).sigmoid(), wanted.flatten(1)) for one in masks.detach()]),
        "target_masks": (4 * wanted).to(torch.uint8),
        "iou_targets": mask_ious(matched, of_pairs([one.masks for one in targets], matches.image, matches.target)),
    }


@torch.no_grad()
def compute_inference(model: Any, golden: Golden) -> dict[str, Any]:
    """The results of the batch; masks of those that are the golden's best."""
    inputs = [
        {**one, "height": height, "width": width}
        for one, (height, width) in zip(images_of(golden), golden.meta["original_sizes"], strict=True)
    ]
    outputs: dict[str, Any] = {}
    for index, result in enumerate(model(inputs)):
        found = result["instances"]
        assert found.image_size == tuple(golden.meta["original_sizes"][index])
        outputs |= {
            f"count_{index}": len(found),
            f"scores_{index}": found.scores,
            f"classes_{index}": found.pred_classes,
            f"mask_area_{index}": found.pred_masks.flatten(1).sum(1),
            f"masks_shape_{index}": found.pred_masks.shape,
            f"top_{index}": found.scores.argsort(descending=True),
            f"top_masks_packed_{index}": found.pred_masks,
        }
    return outputs


def tolerance(case_name: str, key: str) -> tuple[float, float]:
    """Allowed difference: share of the largest value, and absolute."""
    if case_name == "criterion" or key.startswith("scores_"):
        return 1e-5, 0.0
    if key.startswith("loss/"):
        return 1e-4, 0.0
    if key.startswith("grad_norm/"):
        return 1e-3, 0.0
    return 1e-5, 1e-3 if key == "pred_masks" else 1e-4


def compare(case_name: str, key: str, computed: Outputs, golden: Outputs) -> None:
    """Fails unless output `key` is as near as it must be."""
    kind, _, image = key.rpartition("_")
    ours, theirs = computed[key], golden[key]
    if kind == "top_masks_packed":
        compare_masks(key, ours[golden[f"top_{image}"]], theirs)
    elif kind == "top":
        scores = computed[f"scores_{image}"]
        assert scores[theirs].min() >= np.sort(scores)[-len(theirs)] - 1e-5, f"{key}: not the best"
        assert len(set(theirs.tolist())) == len(theirs), key
    elif kind == "mask_area":
        _, height, width = golden[f"masks_shape_{image}"]
        assert_close(key, ours, theirs, "absolute", 1e-4 * height * width)
    elif theirs.dtype.kind == "f":
        relative, absolute = tolerance(case_name, key)
        assert_close(key, ours, theirs, "absolute", absolute + relative * np.abs(theirs).max())
    else:
        assert_close(key, ours, theirs, "equal")


def compare_masks(key: str, masks: np.ndarray, packed: np.ndarray) -> None:
    bits = np.unpackbits(packed).astype(bool)
    assert len(bits) - masks.size < 8 and not bits[masks.size :].any(), f"{key}: another number of masks"
    wrong = (masks != bits[: masks.size].reshape(masks.shape)).sum((1, 2))
    assert wrong.max() <= 1e-4 * masks[0].size, f"{key}: {wrong.max()} pixels of a mask differ"


@pytest.mark.parametrize("name", CASES)
def test_sparseinst_equals_published(name: str) -> None:
    golden, computed = case(name)
    assert [key for key in golden.outputs if key not in computed] == []
    for key in golden.outputs:
        compare(name, key, computed, golden.outputs)
    losses = {key for key in golden.outputs if key.startswith("loss/")}
    assert losses == {key for key in computed if key.startswith("loss/")}


def falsified(key: str, value: np.ndarray, outputs: Outputs) -> np.ndarray:
    """One per cent more of a float; otherwise the least that a comparison must notice."""
    wrong = value.copy().reshape(-1)
    middle = wrong.size // 2
    if value.dtype.kind == "f":
        wrong = wrong + (0.01 * wrong).astype(wrong.dtype)
    elif key.startswith("top_masks_packed"):
        wrong[middle] ^= 255
    elif key.startswith("top_"):
        wrong[middle] = outputs[key.replace("top", "scores")].argmin()
    else:
        wrong[middle] += 20 if key.startswith("mask_area") else 1
    return wrong.reshape(value.shape)


@pytest.mark.parametrize("name", CASES)
def test_sparseinst_golden_can_fail(name: str) -> None:
    golden, computed = case(name)
    for key, value in golden.outputs.items():
        if not key.startswith("in/"):
            with pytest.raises(AssertionError):
                compare(name, key, computed, {**golden.outputs, key: falsified(key, value, golden.outputs)})


@pytest.mark.parametrize("name", PARAMETERS)
def test_sparseinst_parameters_equal_published(name: str) -> None:
    published = json.loads((golden_dir("sparseinst") / f"params_{name}.json").read_text())
    model = built(recipe(published["config"]), ["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", "False"])
    parameters = dict(model.named_parameters())
    found: dict[str, Any] = {}
    for key, tensor in model.state_dict().items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        found[key] = {"shape": list(tensor.shape)} | ({} if key in parameters else {"buffer": True, "dtype": dtype})
    assert found == published["state_dict"]
    assert sum(one.numel() for one in parameters.values()) == published["learned_parameters"]
