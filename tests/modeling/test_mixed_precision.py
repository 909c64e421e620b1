"""Mixed precision makes the same queries: what the ground truth decides does not depend on the dtype of autocast.

float16 is the harder case, as sums of coordinates overflow in it; tests/modeling/layers/test_layers.py has bfloat16 as well.
"""

import pytest
import torch
from detectron2.utils.events import EventStorage

from adet_iuq.modeling import IUQMetaArch
from helpers.grid_checks import AT_ONCE, grid_options, quieten
from helpers.scenes import discs, small_model

RECIPES = {
    "CondInst": ("CondInst/R50_1x_iuq.yaml", ()),
    "SOLOv2": ("SOLOv2/R50_1x_iuq.yaml", grid_options("SOLOV2")),
    "SOTR": ("SOTR/R50_iuq.yaml", grid_options("SOTR")),
}


@pytest.mark.parametrize("name", RECIPES)
def test_queries_belong_to_the_same_instances_as_in_float32(name: str) -> None:
    recipe, small = RECIPES[name]
    model: IUQMetaArch = small_model(recipe, *small, *AT_ONCE)
    if name != "CondInst":
        quieten(model)  # random weights would saturate every sigmoid
    inputs = [discs(160, 224, 5, seed=1), discs(224, 160, 5, seed=2)]
    found = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16, enabled=enabled), EventStorage():
            done = model.training_pass(inputs)
        found.append(torch.stack([done.image_index, done.target_index], dim=1))
    assert len(found[0]) >= 10 and torch.equal(*found)
