"""Half precision on the segmenters themselves: what they give is of the same kinds, and nearly the same."""

from typing import Any

import numpy as np
import pytest
import torch

from adet_iuq.inference.parts import detections_of, parts_of
from helpers.grid_checks import CASES
from helpers.scenes import discs, mask2former_model, small_model

# From random weights every place is an object: low thresholds let them through.
SEGMENTERS: dict[str, Any] = {
    "condinst": lambda: small_model("CondInst/R50_1x.yaml", "MODEL.FCOS.INFERENCE_TH_TEST", "0.0"),
    "solov2": lambda: CASES["solov2"].model(CASES["solov2"].recipe),
    "sotr": lambda: CASES["sotr"].model(CASES["sotr"].recipe),
    "mask2former": lambda: mask2former_model("Mask2Former/R50_50ep.yaml"),
}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_detections_in_half_precision(name: str) -> None:
    model = SEGMENTERS[name]().eval()
    scene = discs(96, 128, count=3, seed=1)
    inputs = [{"image": scene["image"], "height": 48, "width": 64}]
    for encoded in (True, False):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), model.encoding_masks(encoded):
            half = model(inputs)[0]["instances"]
        with torch.no_grad(), model.encoding_masks(encoded):
            full = model(inputs)[0]["instances"]
        assert len(half) and abs(len(half) - len(full)) <= 0.2 * len(full)
        assert half.scores.max().item() == pytest.approx(full.scores.max().item(), rel=0.1)
        found = detections_of(parts_of(half, (0, 0, 64, 48), (48, 64), 0.0), (48, 64), ["a", "b", "c"])
        assert len(found) == len(half) and found.xyxy.dtype == np.float32 and found.mask is not None
        assert found.mask.shape == (len(half), 48, 64)
