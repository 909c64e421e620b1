"""Mask2Former against the published implementation: every number of tests/golden/mask2former but those of Swin with
window 12, the optimiser and the data mappers (docs/parity/mask2former.md)."""

import functools
import json

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from adet_iuq.config import load_config
from helpers.golden import REPOSITORY, Golden, as_array, assert_close, golden_dir, load_golden
from helpers.mask2former_golden import Outputs, extra_inputs
from helpers.mask2former_golden_model import compute_model
from helpers.mask2former_golden_parts import (
    compute_criterion,
    compute_inference,
    compute_msdeform,
    compute_pixel_decoder,
    compute_transformer_decoder,
)

pytestmark = pytest.mark.golden

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
