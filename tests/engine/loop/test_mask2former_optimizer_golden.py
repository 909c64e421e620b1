"""Parameter groups of the optimiser against Mask2Former's published lists."""

import json

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import load_config
from adet_iuq.engine.loop.optimizer import build_optimizer
from helpers.golden import REPOSITORY, golden_dir

pytestmark = pytest.mark.golden

RECIPES = {"r50": "R50_50ep", "swin_small": "SwinS_50ep"}


@pytest.mark.parametrize("name", RECIPES)
def test_rate_and_decay_of_every_parameter(name: str) -> None:
    published = json.loads((golden_dir("mask2former") / f"optimizer_groups_{name}.json").read_text())
    cfg = load_config(str(REPOSITORY / f"configs/Mask2Former/{RECIPES[name]}.yaml")).cfg
    with torch.device("meta"):  # names and shapes, no memory
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["betas"] == (0.9, 0.999)
    names = {parameter: n for n, parameter in model.named_parameters()}
    found: dict[str, set[str]] = {}
    for group in optimizer.param_groups:
        key = f"lr {group['lr']:g} weight_decay {group['weight_decay']:g}"
        members = [names[parameter] for parameter in group["params"]]
        found.setdefault(key, set()).update(members)
        assert len(members) == len(set(members))
    assert found == {key: set(members) for key, members in published.items()}
    assert sum(map(len, found.values())) == sum(p.requires_grad for p in model.parameters())
