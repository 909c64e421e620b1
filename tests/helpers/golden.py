"""Golden files: where they lie, how a model gets their weights, and how close is close enough.

A golden is an .npz of inputs and outputs of a published implementation, with a JSON string `meta` (seed, recipe, config
overrides, constants). Tests take everything from the file, so that any set of the same names runs through them.

GOLDEN_DEVICE=cuda compares what a GPU computes; tools/gpu_check/golden.py does that. Sums are then taken in another order
than on the CPU that the numbers come from, so that they may be SLACK times as far away. What must be equal must be equal
there, too.
"""

import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[2]
DEVICE = torch.device(os.environ.get("GOLDEN_DEVICE", "cpu"))
SLACK = 1.0 if DEVICE.type == "cpu" else 10.0  # factor of all tolerances of numbers
# Buffers that are learned or estimated from data; every other buffer is a constant of the model.
FILLED_BUFFERS = ("weight", "bias", "running_mean", "running_var")


def golden_dir(model: str) -> Path:
    """The folder of one segmenter's golden files: $GOLDEN_DIR/<model>, by default tests/golden/<model>, a project's too."""
    if "GOLDEN_DIR" in os.environ:
        return Path(os.environ["GOLDEN_DIR"]) / model
    of_projects = REPOSITORY.glob(f"projects/*/tests/golden/{model}")
    return next(of_projects, REPOSITORY / "tests" / "golden" / model)


@dataclass
class Golden:
    """One file: `inputs` an image, `outputs` by name, `meta`."""

    inputs: list[dict[str, np.ndarray]]
    outputs: dict[str, np.ndarray]
    meta: dict[str, Any]


def load_golden(model: str, name: str) -> Golden:
    """Reads `golden_<name>.npz`."""
    data = np.load(golden_dir(model) / f"golden_{name}.npz", allow_pickle=False)
    inputs: list[dict[str, np.ndarray]] = []
    keys = ("image", "gt_boxes", "gt_classes", "gt_masks")
    while any(f"{key}_{len(inputs)}" in data for key in keys):
        suffix = f"_{len(inputs)}"
        inputs.append({key: data[key + suffix] for key in keys if key + suffix in data})
    outputs = {key.removeprefix("out/"): data[key] for key in data.files if key.startswith("out/")}
    return Golden(inputs, outputs, json.loads(str(data["meta"])))


def recipe_path(published: str) -> Path:
    """This project's file for a published recipe: configs/CondInst/MS_R_50_1x.yaml -> configs/CondInst/R50_1x.yaml."""
    path = Path(published)
    return REPOSITORY / path.with_name(re.sub(r"^MS_R_", "R", path.name))


@torch.no_grad()
def fill(model: nn.Module, seed: int, constants: dict[str, float]) -> None:
    """Overwrites all weights by values that depend on name, shape and seed only; name suffixes in `constants` win."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict(keep_vars=True).items():
        estimated = name.rsplit(".", 1)[-1] in FILLED_BUFFERS
        if not tensor.is_floating_point() or not (name in parameters or estimated):
            continue
        values = [value for suffix, value in constants.items() if name.endswith(suffix)]
        drawn = values[0] if values else _values(name, tuple(tensor.shape), seed)
        tensor.data.copy_(torch.as_tensor(np.asarray(drawn), dtype=tensor.dtype))


def _values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """He-scaled for matrices and kernels, near one for scales, small for offsets."""
    rng = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 0.5 + rng.uniform(size=shape)
    noise = rng.standard_normal(shape)
    if len(shape) >= 2:
        return noise * np.sqrt(2.0 / np.prod(shape[1:]))
    return 1.0 + 0.1 * noise if leaf in ("weight", "scale") else 0.1 * noise


def as_array(value: Any) -> np.ndarray:
    """A tensor of any device, or anything that numpy takes, as an array."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def assert_close(name: str, computed: np.ndarray, golden: np.ndarray, kind: str, tolerance: float = 0.0) -> None:
    """Fails unless `computed` is as near to `golden` as `kind` says.

    Args:
        name: the name of the number in the message.
        computed: the computed array.
        golden: the expected array, of the same shape.
        kind: "equal"; "absolute": largest difference; "relative": largest difference by the golden value; "scale": largest
            difference by the golden's largest absolute value.
        tolerance: the tolerance of the last three kinds.
    """
    computed = np.asarray(computed)
    assert computed.shape == golden.shape, f"{name}: shape {computed.shape}, golden {golden.shape}"
    if kind == "equal":
        assert np.array_equal(computed, golden), f"{name}: {int((computed != golden).sum())} of {golden.size} differ"
        return
    difference = np.abs(computed.astype(np.float64) - golden.astype(np.float64))
    if kind == "relative":
        difference = np.where(golden == 0, difference, difference / np.maximum(np.abs(golden), 1e-30))
    elif kind == "scale":
        difference = difference / max(float(np.abs(golden).max(initial=0.0)), 1e-30)
    else:
        assert kind == "absolute", kind
    largest = float(difference.max(initial=0.0))
    allowed = SLACK * tolerance
    assert largest <= allowed, f"{name}: off by {largest:.3g} ({kind}), allowed {allowed:g}"
    assert np.isfinite(computed).all(), f"{name}: not finite"


def assert_masks(name: str, computed: np.ndarray, packed: np.ndarray, borderline: np.ndarray) -> None:
    """Fails when more than 1 pixel in 100,000 differs, or any pixel that rounding does not explain.

    Args:
        name: for the message.
        computed: (N, height, width) bool.
        packed: the golden masks through np.packbits.
        borderline: (N, height, width) bool, pixels whose probability is as good as at the threshold.
    """
    count = computed.size
    assert packed.size == (count + 7) // 8, f"{name}: {packed.size} bytes for masks of shape {computed.shape}"
    golden = np.unpackbits(packed).astype(bool)
    assert not golden[count:].any(), f"{name}: bits set beyond the masks"
    wrong = computed != golden[:count].reshape(computed.shape)
    assert wrong.sum() <= count / 100_000, f"{name}: {wrong.sum()} of {count} pixels differ"
    assert not (wrong & ~borderline).any(), f"{name}: {(wrong & ~borderline).sum()} pixels differ by more than rounding"
