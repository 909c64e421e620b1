"""MaskFormerIUQ: what it adds in training, who gets a gradient, and that evaluation is Mask2Former's."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.modeling.mask2former import MaskFormer, MaskFormerIUQ
from adet_iuq.modeling.views import transform_inputs
from helpers.mask2former_iuq import IUQ, train_step, two_images
from helpers.scenes import SMALL_MASK2FORMER, discs, mask2former_model, small_cfg

BASE = "Mask2Former/R50_50ep_paper.yaml"


@pytest.fixture(scope="module")
def inputs() -> list[dict[str, Any]]:
    return two_images()


def test_losses_are_the_base_losses_and_two_more(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    losses, stats = train_step(model, inputs)
    base = {f"loss_{term}{suffix}" for term in ("ce", "mask", "dice") for suffix in ("", "_0", "_1", "_2")}
    assert set(losses) == base | {"loss_inter", "loss_equi"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_inter"] > 0 and losses["loss_equi"] > 0
    assert stats["iuq/memory_fill"] > 0 and stats["iuq/num_valid_pairs"] > 0


def test_base_losses_on_both_views_are_the_published_ones(inputs: list[dict[str, Any]]) -> None:
    model, base = mask2former_model(*IUQ), mask2former_model(BASE, seed=1)
    base.load_state_dict(model.state_dict())
    transforms = [model._sample_transform(one) for one in inputs]
    views = inputs + [transform_inputs(i, g) for i, g in zip(inputs, transforms, strict=True)]
    torch.manual_seed(0)
    expected = base(views)
    torch.manual_seed(0)
    losses, _ = train_step(model, inputs)
    for name, loss in expected.items():
        assert torch.equal(losses[name], loss), name


def test_inter_loss_reaches_the_queries_only(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    losses, _ = train_step(model, inputs)
    losses["loss_inter"].backward()
    gradients = {name: p.grad.abs().sum().item() for name, p in model.named_parameters() if p.grad is not None}
    assert gradients["sem_seg_head.predictor.mask_embed.layers.2.weight"] > 0
    assert gradients["sem_seg_head.predictor.query_feat.weight"] > 0
    assert gradients["backbone.res5.0.conv1.weight"] > 0
    # The queries are made from the other maps, not from the mask features.
    assert gradients["sem_seg_head.pixel_decoder.mask_features.weight"] == 0
    assert gradients.get("sem_seg_head.predictor.class_embed.weight", 0) == 0


def test_equi_loss_reaches_queries_and_features(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    losses, _ = train_step(model, inputs)
    losses["loss_equi"].backward()
    gradients = {name: p.grad.abs().sum().item() for name, p in model.named_parameters() if p.grad is not None}
    assert gradients["sem_seg_head.predictor.mask_embed.layers.2.weight"] > 0
    assert gradients["sem_seg_head.pixel_decoder.mask_features.weight"] > 0


def test_switched_off_is_the_base_model(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ, "MODEL.IUQ.EQUI.ENABLED", "False", "MODEL.IUQ.INTER.ENABLED", "False")
    base = mask2former_model(BASE, seed=1)
    base.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    expected = base(inputs)
    torch.manual_seed(0)
    losses, _ = train_step(model, inputs)
    assert list(losses) == list(expected)
    for name, loss in expected.items():
        assert torch.equal(losses[name], loss), name


@pytest.mark.parametrize("recipe", [("R50_50ep_iuq", "R50_50ep_paper"), ("R50_panoptic_50ep_iuq", "R50_panoptic_50ep")])
def test_evaluation_is_bit_equal_and_weights_load_strictly(
    inputs: list[dict[str, Any]], recipe: tuple[str, str]
) -> None:
    low = ("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.1", "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.1")
    model, base = (mask2former_model(f"Mask2Former/{name}.yaml", *low, seed=seed) for seed, name in enumerate(recipe))
    train_step(model, inputs)[0]["loss_equi"].backward()
    base.load_state_dict(model.state_dict(), strict=True)
    assert type(base) is MaskFormer and list(model.state_dict()) == list(base.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(model.eval()(inputs), base.eval()(inputs), strict=True):
            assert set(ours) == set(theirs)
            for field, value in ours["instances"].get_fields().items():
                other = theirs["instances"].get(field)
                value, other = getattr(value, "tensor", value), getattr(other, "tensor", other)
                assert len(value) > 0 and torch.equal(value, other), field
            if "panoptic_seg" in ours:
                assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
                assert ours["panoptic_seg"][1] == theirs["panoptic_seg"][1]
                assert torch.equal(ours["sem_seg"], theirs["sem_seg"])


def test_empty_batch_trains_every_parameter() -> None:
    model = mask2former_model(*IUQ)
    losses, _ = train_step(model, [discs(64, 64, 0, seed=1), discs(64, 96, 0, seed=2)])
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_inter"] == 0 and losses["loss_equi"] == 0 and losses["loss_mask"] == 0
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_same_seed_same_losses(inputs: list[dict[str, Any]]) -> None:
    runs: list[dict[str, Tensor]] = []
    for _ in range(2):
        model = mask2former_model(*IUQ, "MODEL.IUQ.INTER.MAX_QUERIES", "5", seed=3)
        runs.append(train_step(model, inputs, times=2)[0])
    for name in runs[0]:
        assert torch.equal(runs[0][name], runs[1][name]), name


def test_memory_state_round_trip(inputs: list[dict[str, Any]]) -> None:
    model, other = mask2former_model(*IUQ), mask2former_model(*IUQ)
    train_step(model, inputs)
    other.load_iuq_state(copy.deepcopy(model.iuq_state()))
    for name, value in model.iuq_state().items():
        assert torch.equal(value, other.iuq_state()[name]), name
    assert model.iuq_state()["image_ids"].max() == 2


def test_wrong_values_are_refused() -> None:
    for key, value in (("QUERY_LAYERS", "first"), ("EQUI_MASK_LOSS", "lovasz")):
        with pytest.raises(UserError, match=value):
            mask2former_model(*IUQ, f"MODEL.IUQ.MASK_FORMER.{key}", value)


@pytest.mark.slow
def test_fifty_steps_in_bfloat16_stay_finite() -> None:
    inputs = [discs(32, 48, 2, seed=1), discs(32, 32, 1, seed=2)]
    model = mask2former_model(*IUQ, "MODEL.BACKBONE.FREEZE_AT", "0")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = last = 0.0
    for step in range(50):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses, _ = train_step(model, inputs)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        assert torch.isfinite(norm) and all(torch.isfinite(loss) for loss in losses.values()), step
        assert losses["loss_inter"].dtype == losses["loss_mask"].dtype == torch.float32
        optimizer.step()
        first, last = (float(total.detach()) if step == 0 else first), float(total.detach())
    assert last < first


def test_an_unknown_choice_of_layers_is_refused_without_a_config_too() -> None:
    arguments = MaskFormerIUQ.from_config(small_cfg(*IUQ, *SMALL_MASK2FORMER))
    with pytest.raises(ValueError, match="Unknown query_layers 'first'"):
        MaskFormerIUQ(**{**arguments, "query_layers": "first"})
