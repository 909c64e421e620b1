"""Golden files of the segmenters whose queries are grid cells: what is computed from their inputs, and how it compares.

Tolerances: docs/parity/solov2.md, "How near it is", and docs/parity/sotr.md, "How near it is".
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import load_config
from adet_iuq.modeling.grid import GridMaps, GridSegmenter, point_nms, quarter_masks
from adet_iuq.modeling.layers import instance_masks
from helpers.golden import DEVICE, REPOSITORY, SLACK, Golden, as_array, assert_close, fill, load_golden

SCORE = SLACK * 1e-5  # tolerance of scores; what is nearer to a threshold or to its neighbour may come, go or swap
BORDERLINE = SLACK * 1e-4  # a pixel whose probability is as near to the threshold may differ
WRONG_PIXELS = 1e-3  # at most, of an instance's area


def build(recipe: str, overrides: list[Any]) -> GridSegmenter:
    """The model of a recipe below configs/, on the device of the goldens."""
    cfg = load_config(str(REPOSITORY / "configs" / recipe), [*overrides, "MODEL.DEVICE", str(DEVICE)]).cfg
    return build_model(cfg)


def parameter_list(model: GridSegmenter) -> dict[str, Any]:
    """Names and shapes of all weights, as the params_*.json of the goldens have them."""
    parameters = dict(model.named_parameters())
    frozen = sorted(name for name, parameter in parameters.items() if not parameter.requires_grad)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        "parameters": {name: shape for name, shape in shapes.items() if name in parameters},
        "persistent_buffers": {name: shape for name, shape in shapes.items() if name not in parameters},
        "frozen_parameters": frozen,
        "num_trainable": sum(p.numel() for p in parameters.values() if p.requires_grad),
    }


def training_inputs(golden: Golden) -> list[Instances]:
    """The annotations of every image."""
    result = []
    for arrays in golden.inputs:
        masks = torch.as_tensor(arrays["gt_masks"])
        instances = Instances((masks.shape[1], masks.shape[2]))
        instances.gt_boxes = Boxes(torch.as_tensor(arrays["gt_boxes"]))
        instances.gt_classes = torch.as_tensor(arrays["gt_classes"])
        instances.gt_masks = BitMasks(masks)
        result.append(instances.to(DEVICE))
    return result


@functools.cache
def grid_case(model_name: str, recipe: str, name: str) -> tuple[Golden, dict[str, Any]]:
    """A golden and what this project computes from its inputs, under the golden's names."""
    golden = load_golden(model_name, name)
    model = build(recipe, golden.meta["overrides"])
    fill(model, golden.meta["seed"], golden.meta["constants"])
    model.train(golden.meta["mode"] == "train")
    compute = {"features": compute_features, "losses": compute_losses, "targets": compute_targets}
    return golden, compute.get(name, compute_inference)(model, golden)


@torch.no_grad()
def compute_features(model: GridSegmenter, golden: Golden) -> dict[str, Any]:
    """Maps of the pyramid, of the instance head and of the mask branch."""
    images = model.preprocess([{"image": torch.as_tensor(arrays["image"])} for arrays in golden.inputs])
    features = model.backbone(images.tensor)
    read: list[torch.Tensor] = []  # what the mask branch reads
    hook = model.mask_head.register_forward_pre_hook(lambda _, args: read.extend(args[0]))
    maps = model.predict(features)
    hook.remove()
    outputs: dict[str, Any] = {f"fpn/{name}": features[name][:, ::32] for name in model.in_features}
    for level, (logits, kernels) in enumerate(zip(maps.class_logits, maps.kernels, strict=True)):
        outputs |= {
            f"cate_pred/{level}": logits[:, ::8],
            f"cate_pred_channel_mean/{level}": logits.mean((2, 3)),
            f"kernel_pred/{level}": kernels[:, ::16],
            f"kernel_pred_channel_mean/{level}": kernels.mean((2, 3)),
        }
    return outputs | {
        "mask_transformer_feature": read[-1][:, ::8],
        "mask_pred": maps.features[:, ::8],
        "mask_pred_channel_mean": maps.features.mean((2, 3)),
    }


def compute_losses(model: GridSegmenter, golden: Golden) -> dict[str, Any]:
    """Losses, targets, and gradient norms, which are computed in float64.

    In float32 a ReLU's input that is nearly zero may have another sign on another CPU, also with plain convolutions, and
    with it SOTR's gradient norms jump by up to 2e-3. In float64 all of them agree with the golden numbers to 1e-4.
    """
    batch = [
        {"image": torch.as_tensor(arrays["image"]), "instances": one}
        for arrays, one in zip(golden.inputs, training_inputs(golden), strict=True)
    ]
    with torch.no_grad():
        losses = model(batch)
    targets = compute_targets(model, golden)
    torch.stack(list(model.double()(batch).values())).sum().backward()
    trained = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    assert sorted(trained) == golden.meta["grad_names"], set(trained) ^ set(golden.meta["grad_names"])
    outputs: dict[str, Any] = {name: loss.detach() for name, loss in losses.items()}
    outputs["grad_norm"] = torch.stack([trained[name] for name in golden.meta["grad_names"]])
    return outputs | targets


def compute_targets(model: GridSegmenter, golden: Golden) -> dict[str, Any]:
    """Labels, positive cells, pairs and quarter-size masks, by image and level."""
    instances = training_inputs(golden)
    height, width = golden.meta["mask_size"]
    masks = [instance_masks(one) for one in instances]
    targets = model.assign(instances, masks, (4 * height, 4 * width))
    outputs: dict[str, Any] = {"num_pairs": len(targets)}
    outputs["num_positive_cells"] = (targets.labels < model.num_classes).sum()
    start = 0
    for level, size in enumerate(model.layout.sizes):
        for image, mask in enumerate(masks):
            label = targets.labels[image, start : start + size**2]
            pairs = (targets.image == image) & (targets.cell >= start) & (targets.cell < start + size**2)
            small = quarter_masks(mask, (height, width))[targets.instance[pairs]].bool()
            where = f"image{image}/level{level}"
            outputs |= {
                f"cate_label/{where}": label.view(size, size),
                f"cell_mask/{where}": label < model.num_classes,
                f"cell_order/{where}": targets.cell[pairs] - start,
                f"mask_bits/{where}": _packed(small) if pairs.any() else np.zeros((0, 0), np.uint8),
            }
        start += size**2
    return outputs


@dataclass
class Found:
    """One image's results: scores (n,), classes (n,), masks (n, height, width), and which of their pixels are borderline."""

    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray
    borderline: np.ndarray
    least: float  # a result that scores about that may come or go


@torch.no_grad()
def compute_inference(model: GridSegmenter, golden: Golden) -> dict[str, Any]:
    """Results of each image alone and of the batch, and the number of candidates."""
    inputs: list[dict[str, Any]] = [
        {"image": torch.as_tensor(arrays["image"]), "height": size[0], "width": size[1]}
        for arrays, size in zip(golden.inputs, golden.meta["output_sizes"], strict=True)
    ]
    outputs: dict[str, Any] = {f"batch/{i}": found for i, found in enumerate(results(model, inputs))}
    for index, one in enumerate(inputs):
        outputs[f"single/{index}"] = results(model, [one])[0]
        maps = model.predict(model.backbone(model.preprocess([one]).tensor))
        scores = [point_nms(level.sigmoid()) > model.detection.score_threshold for level in maps.class_logits]
        outputs[f"num_candidates/{index}"] = sum(int(level.sum()) for level in scores)
    return outputs


def results(model: GridSegmenter, inputs: list[dict[str, Any]]) -> list[Found]:
    """What the model finds in a batch."""
    images = model.preprocess(inputs)
    maps = model.predict(model.backbone(images.tensor))
    cells = model.detect(maps)
    detection = model.detection
    found = []
    for index, (one, output) in enumerate(zip(inputs, model(inputs), strict=True)):
        instances = output["instances"]
        wide, narrow = (
            _masks_at(model, maps, index, cells[index], images.image_sizes[index], one, shift)
            for shift in (-BORDERLINE, BORDERLINE)
        )
        full = len(instances) == detection.max_per_image
        least = float(instances.scores[-1]) if full else detection.update_threshold
        scores, classes, masks, borderline = (
            as_array(array)
            for array in (instances.scores, instances.pred_classes, instances.pred_masks, wide & ~narrow)
        )
        found.append(Found(scores, classes, masks, borderline, least))
        assert instances.image_size == (one["height"], one["width"])
    return found


def _masks_at(
    model: GridSegmenter, maps: GridMaps, index: int, cells: Any, size: Any, one: dict[str, Any], shift: float
) -> torch.Tensor:
    """The masks at a threshold moved by `shift`."""
    detection = model.detection
    model.detection = replace(detection, mask_threshold=detection.mask_threshold + shift)
    masks = model.postprocess(maps, index, cells, size, (one["height"], one["width"])).pred_masks
    model.detection = detection
    return masks


def _packed(masks: Any) -> np.ndarray:
    return np.packbits(as_array(masks).reshape(len(masks), -1), axis=1)


def compare(key: str, computed: dict[str, Any], golden: dict[str, np.ndarray], kernels: float = 1e-5) -> None:
    """Fails unless what is computed equals the golden output of that name.

    Args:
        key: of the golden.
        computed: from `grid_case`.
        golden: all outputs of the golden.
        kernels: tolerance of class logits and kernels.
    """
    parts = key.split("/")
    if parts[0] in ("single", "batch"):
        compare_results(key, computed[f"{parts[0]}/{parts[2]}"], golden)
        return
    kind: tuple[str, float] = ("equal", 0.0)
    if parts[0].startswith("loss_"):
        kind = ("relative", 1e-5)
    elif parts[0] == "grad_norm":
        kind = ("relative", 1e-3)
    elif golden[key].dtype.kind == "f":
        kind = ("scale", kernels if parts[0].startswith(("cate_pred", "kernel_pred")) else 1e-5)
    assert_close(key, as_array(computed[key]), golden[key], *kind)


def compare_results(key: str, found: Found, golden: dict[str, np.ndarray]) -> None:
    """Results of one image, one output at a time; the golden's own masks and areas must agree."""
    how, _, image = key.split("/")
    scores, classes, bits, areas = (
        golden[f"{how}/{name}/{image}"] for name in ("scores", "classes", "mask_bits", "mask_area")
    )
    size = found.masks.shape[1:]
    masks = np.unpackbits(bits, axis=1)[:, : size[0] * size[1]].reshape(-1, *size).astype(bool)
    assert np.array_equal(_packed(masks), bits), f"{key}: bits set beyond the masks"
    assert np.array_equal(masks.sum((1, 2)), areas), f"{key}: the golden's masks and areas disagree"
    assert (np.diff(found.scores) <= SCORE).all(), f"{key}: results are not in the order of their scores"
    pairs = match(found, scores, classes, masks)
    left = [scores[i] for i in range(len(scores)) if i not in pairs]
    left += [found.scores[j] for j in range(len(found.scores)) if j not in pairs.values()]
    assert all(abs(score - found.least) <= SCORE for score in left), f"{key}: {len(left)} results without a partner"
    for i, j in pairs.items():
        wrong = found.masks[j] != masks[i]
        assert wrong.sum() <= WRONG_PIXELS * areas[i], (
            f"{key}: {wrong.sum()} pixels of result {i} with {areas[i]} differ"
        )
        assert not (wrong & ~found.borderline[j]).any(), f"{key}: pixels of result {i} differ by more than rounding"


def match(found: Found, scores: np.ndarray, classes: np.ndarray, masks: np.ndarray) -> dict[int, int]:
    """Golden result to result here: same class, same score, and of several such the most similar mask."""
    pairs: dict[int, int] = {}
    for i in range(len(scores)):
        close = (np.abs(found.scores - scores[i]) <= SCORE * scores.max()) & (found.classes == classes[i])
        close[list(pairs.values())] = False
        candidates = np.nonzero(close)[0]
        if len(candidates):
            wrong = (found.masks[candidates] != masks[i]).sum((1, 2))
            pairs[i] = int(candidates[wrong.argmin()])
    return pairs


def check_case(model_name: str, recipe: str, name: str, kernels: float = 1e-5) -> None:
    """Every output of a golden is computed here and equal."""
    golden, computed = grid_case(model_name, recipe, name)
    for key in golden.outputs:
        compare(key, computed, golden.outputs, kernels)


def check_case_can_fail(model_name: str, recipe: str, name: str, kernels: float = 1e-5) -> None:
    """One per cent on any float output, or one element of any other, is noticed."""
    golden, computed = grid_case(model_name, recipe, name)
    check_can_fail(golden, lambda key, outputs: compare(key, computed, outputs, kernels))


def check_can_fail(golden: Golden, compare_output: Callable[[str, dict[str, np.ndarray]], None]) -> None:
    """Applies `compare_output(key, outputs)` to outputs of which that key's is wrong."""
    for key, value in golden.outputs.items():
        wrong = value.copy()
        if wrong.dtype.kind == "f":
            wrong *= 1.01
        elif wrong.size:
            flat = wrong.reshape(-1)
            flat[flat.size // 2] ^= 1
        if np.array_equal(wrong, value):  # empty or all zero
            continue
        with pytest.raises(AssertionError):
            compare_output(key, {**golden.outputs, key: wrong})
            pytest.fail(f"{key} may be anything", pytrace=False)
