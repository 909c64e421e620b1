"""Parameter groups and clipping of the optimiser. (The published groups: test_mask2former_optimizer_golden.py.)"""

import copy

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.solver import build
from detectron2.solver.build import build_optimizer as build_detectron2_optimizer
from torch import nn
from torch.optim import SGD, AdamW

from adet_iuq.config import get_cfg
from adet_iuq.engine.loop.optimizer import build_optimizer, parameter_groups
from adet_iuq.errors import UserError
from helpers.scenes import small_cfg, small_model

Rates = dict[str, tuple[float, float]]


class Toy(nn.Module):
    """A backbone with a norm and a table, and a head with an embedding and a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.backbone.register_parameter("relative_position_bias_table", nn.Parameter(torch.ones(4, 1)))
        linear = nn.Linear(3, 3)
        self.head = nn.Sequential(linear, nn.GroupNorm(1, 3), nn.Embedding(2, 3))
        self.level_embed = nn.Parameter(torch.ones(2, 3))
        self.tied = nn.Linear(3, 3)
        self.tied.weight = linear.weight
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> Rates:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [(names[p], (g["lr"], g["weight_decay"])) for g in optimizer.param_groups for p in g["params"]]
    assert len(groups) == len(dict(groups))
    return dict(groups)


def config() -> CfgNode:
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = "ADAMW", 1.0, 0.05
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.125
    return cfg


def test_rate_and_decay_of_every_kind_of_parameter() -> None:
    model = Toy()
    optimizer = build_optimizer(config(), model)
    assert isinstance(optimizer, AdamW) and optimizer.defaults["betas"] == (0.9, 0.999)
    assert rates(optimizer, model) == {
        "backbone.relative_position_bias_table": (0.125, 0.0),
        "backbone.0.weight": (0.125, 0.05), "backbone.0.bias": (0.125, 0.05),
        "backbone.1.weight": (0.125, 0.0), "backbone.1.bias": (0.125, 0.0),
        "head.0.weight": (1.0, 0.05), "head.0.bias": (1.0, 0.05),
        "head.1.weight": (1.0, 0.0), "head.1.bias": (1.0, 0.0),
        "head.2.weight": (1.0, 0.0),
        "level_embed": (1.0, 0.05),
        "tied.bias": (1.0, 0.05),
    }  # fmt: skip
    assert len(optimizer.param_groups) == 4


def test_decay_of_embeddings_and_norms_can_be_set() -> None:
    cfg, model = config(), Toy()
    cfg.SOLVER.WEIGHT_DECAY_EMBED, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.25, 0.5
    found = rates(build_optimizer(cfg, model), model)
    assert found["head.2.weight"][1] == 0.25 and found["head.1.weight"][1] == 0.5


def test_any_part_of_a_name_may_slow_a_module_down() -> None:
    cfg, model = config(), Toy()
    before = rates(build_optimizer(cfg, model), model)
    cfg.SOLVER.LR_MULTIPLIERS = [["head.1", 0.5], ["head", 0.25], ["nowhere", 0.0]]
    found = rates(build_optimizer(cfg, model), model)
    factors = {
        "head.0.weight": 0.25,
        "head.0.bias": 0.25,
        "head.1.weight": 0.125,
        "head.1.bias": 0.125,
        "head.2.weight": 0.25,
    }
    assert found == {name: (lr * factors.get(name, 1.0), decay) for name, (lr, decay) in before.items()}


@pytest.fixture
def main_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    """detectron2's main branch builds SGD with `foreach`; version 0.6 leaves that to torch."""
    clipped = build.maybe_add_gradient_clipping
    monkeypatch.setattr(
        build,
        "maybe_add_gradient_clipping",
        lambda cfg, kind: lambda params, **options: clipped(cfg, kind)(params, **{"foreach": True, **options}),
    )


@pytest.mark.usefixtures("main_branch")
@pytest.mark.parametrize("opts", [(), ("SOLVER.BIAS_LR_FACTOR", "2.0", "SOLVER.WEIGHT_DECAY_BIAS", "0.0")])
def test_condinst_gets_detectron2s_optimizer(opts: tuple[str, ...]) -> None:
    cfg, model = small_cfg("CondInst/R50_1x.yaml", *opts), small_model("CondInst/R50_1x.yaml", *opts)
    ours, theirs = build_optimizer(cfg, model), build_detectron2_optimizer(cfg, model)
    assert type(ours) is SGD and ours.defaults == theirs.defaults
    assert rates(ours, model) == rates(theirs, model)
    if not opts:
        for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert all(a is b for a, b in zip(mine["params"], other["params"], strict=True))


def test_foreach_changes_no_bit_and_takes_the_state_of_older_checkpoints() -> None:
    """What the main branch's default means for a run that was begun with that of 0.6."""
    cfg = get_cfg()
    models = [nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 1)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    new, old = build_optimizer(cfg, models[0]), SGD(parameter_groups(cfg, models[1]), cfg.SOLVER.BASE_LR, momentum=0.9)
    images = torch.randn(3, 8, 4)
    for step, image in enumerate(images):
        for model, optimizer in zip(models, (new, old), strict=True):
            optimizer.zero_grad()
            model(image).square().mean().backward()
            optimizer.step()
        if step == 1:
            new.load_state_dict(copy.deepcopy(old.state_dict()))  # else they would share its tensors
            assert new.param_groups[0]["foreach"] is None
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, other)


def stepped(clip_type: str, gradients: tuple[float, ...], scale: float = 1.0) -> list[float]:
    """How far parameters move in a step of plain SGD with rate 1 and a limit of 0.5."""
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = 1.0, 0.0, 0.0
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, clip_type, 0.5
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in gradients])
    optimizer = build_optimizer(cfg, model)
    loss = torch.stack([g * p.sum() for g, p in zip(gradients, model, strict=True)]).sum()
    if scale == 1.0:
        loss.backward()
        optimizer.step()
    else:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
    return [-p.item() for p in model]


def test_full_model_clipping_limits_the_norm_of_all_gradients_together() -> None:
    assert stepped("full_model", (3.0, 4.0)) == pytest.approx([0.3, 0.4])
    assert stepped("norm", (3.0, 4.0)) == pytest.approx([0.5, 0.5])
    assert stepped("full_model", (0.03, 0.04)) == pytest.approx([0.03, 0.04])


def test_full_model_clipping_sees_unscaled_gradients() -> None:
    assert stepped("full_model", (0.03, 0.04), scale=1024.0) == pytest.approx([0.03, 0.04])
    assert stepped("full_model", (3.0, 4.0), scale=1024.0) == pytest.approx([0.3, 0.4])


def test_full_model_clipping_leaves_the_state_of_a_plain_optimizer() -> None:
    cfg, model = config(), Toy()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, "full_model"
    clipped = build_optimizer(cfg, model)
    assert isinstance(clipped, AdamW)
    torch.stack([p.sum() for p in model.parameters()]).sum().backward()
    clipped.step()
    AdamW(parameter_groups(cfg, model)).load_state_dict(clipped.state_dict())


def test_unknown_names_are_refused() -> None:
    cfg = config()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = True, "all"
    with pytest.raises(UserError, match=r'"all"; it can be "full_model"'):
        build_optimizer(cfg, Toy())
    cfg.SOLVER.OPTIMIZER = "LION"
    with pytest.raises(UserError, match=r'"LION"; it can be "SGD" or "ADAMW"'):
        build_optimizer(cfg, Toy())
