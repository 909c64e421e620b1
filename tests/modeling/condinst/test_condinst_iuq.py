"""CondInstIUQ: what it adds in training, who gets a gradient, and that evaluation is CondInst's."""

import copy
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from adet_iuq.errors import UserError
from adet_iuq.iuq import CropFlip
from adet_iuq.modeling.condinst import CondInst, CondInstIUQ
from adet_iuq.modeling.views import transform_inputs
from helpers.scenes import discs, small_cfg, small_model

IUQ = ("CondInst/R50_1x_iuq.yaml", "MODEL.IUQ.INTER.START_ITER", "0", "MODEL.IUQ.INTER.RAMP_ITERS", "0")
FROZEN_OFF = ("MODEL.BACKBONE.FREEZE_AT", "0")


def train_step(
    model: Any, inputs: list[dict[str, Any]], times: int = 1
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    with EventStorage() as storage:
        for _ in range(times):
            losses = model(inputs)
        return losses, {name: value for name, (value, _) in storage.latest().items()}


@pytest.fixture(scope="module")
def inputs() -> list[dict[str, Any]]:
    return [discs(96, 128, 4, seed=1), discs(128, 96, 3, seed=2)]


def test_losses_are_the_base_losses_and_two_more(inputs: list[dict[str, Any]]) -> None:
    model = small_model(*IUQ)
    losses, stats = train_step(model, inputs)
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_mask", "loss_inter", "loss_equi"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_inter"] > 0 and losses["loss_equi"] > 0
    assert stats["iuq/memory_fill"] > 0 and stats["iuq/num_valid_pairs"] > 0


def test_base_losses_on_both_views_are_the_published_ones(inputs: list[dict[str, Any]]) -> None:
    model = small_model(*IUQ)
    base = small_model("CondInst/R50_1x_paper.yaml")
    base.load_state_dict(model.state_dict())
    transforms = [model._sample_transform(one) for one in inputs]
    views = inputs + [transform_inputs(i, g) for i, g in zip(inputs, transforms, strict=True)]
    expected = base(views)
    losses, _ = train_step(model, inputs)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=0)


def test_inter_loss_reaches_the_query_creator_only(inputs: list[dict[str, Any]]) -> None:
    model = small_model(*IUQ)
    losses, _ = train_step(model, inputs)
    losses["loss_inter"].backward()
    gradients = {name: p.grad.abs().sum().item() for name, p in model.named_parameters() if p.grad is not None}
    assert gradients["controller.weight"] > 0
    assert gradients["proposal_generator.fcos_head.bbox_tower.0.weight"] > 0
    assert gradients["backbone.fpn_lateral3.weight"] > 0
    assert all(value == 0 for name, value in gradients.items() if name.startswith("mask_branch"))
    assert gradients.get("proposal_generator.fcos_head.cls_logits.weight", 0) == 0


def test_equi_loss_reaches_queries_and_features(inputs: list[dict[str, Any]]) -> None:
    model = small_model(*IUQ)
    losses, _ = train_step(model, inputs)
    losses["loss_equi"].backward()
    gradients = {name: p.grad.abs().sum().item() for name, p in model.named_parameters() if p.grad is not None}
    assert gradients["controller.weight"] > 0
    assert gradients["mask_branch.tower.0.0.weight"] > 0


@pytest.mark.parametrize(
    "target,terms", [("feature", {"loss_equi"}), ("augmentation", set()), ("query", {"loss_equi"})]
)
def test_equivariance_targets(inputs: list[dict[str, Any]], target: str, terms: set[str]) -> None:
    model = small_model(*IUQ, "MODEL.IUQ.EQUI.TARGET", target, "MODEL.IUQ.INTER.ENABLED", "False")
    losses, _ = train_step(model, inputs)
    assert {name for name in losses if name in ("loss_inter", "loss_equi")} == terms


def test_switched_off_is_the_base_model(inputs: list[dict[str, Any]]) -> None:
    off = ("MODEL.IUQ.EQUI.ENABLED", "False", "MODEL.IUQ.INTER.ENABLED", "False")
    model = small_model(*IUQ, *off)
    base = small_model("CondInst/R50_1x_paper.yaml")
    base.load_state_dict(model.state_dict())
    losses, _ = train_step(model, inputs)
    for name, loss in base(inputs).items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=0)
    assert CondInstIUQ.images_per_batch(small_cfg(*IUQ, *off)) == 16


def test_evaluation_is_bit_equal_and_weights_load_strictly(inputs: list[dict[str, Any]]) -> None:
    model = small_model(*IUQ, "MODEL.FCOS.INFERENCE_TH_TEST", "0.0")
    train_step(model, inputs)[0]["loss_equi"].backward()
    base = small_model("CondInst/R50_1x_paper.yaml", "MODEL.FCOS.INFERENCE_TH_TEST", "0.0", seed=1)
    base.load_state_dict(model.state_dict(), strict=True)
    assert type(base) is CondInst and list(model.state_dict()) == list(base.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(model.eval()(inputs), base.eval()(inputs), strict=True):
            for field, value in ours["instances"].get_fields().items():
                other = theirs["instances"].get(field)
                value, other = getattr(value, "tensor", value), getattr(other, "tensor", other)
                assert len(value) > 0 and torch.equal(value, other), field


def test_empty_batch_trains_every_parameter() -> None:
    model = small_model(*IUQ, *FROZEN_OFF)
    losses, _ = train_step(model, [discs(64, 64, 0, seed=1), discs(64, 96, 0, seed=2)])
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_inter"] == 0 and losses["loss_equi"] == 0 and losses["loss_mask"] == 0
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without


def test_same_seed_same_losses(inputs: list[dict[str, Any]]) -> None:
    runs: list[dict[str, torch.Tensor]] = []
    for _ in range(2):
        torch.manual_seed(5 + len(runs))  # keyed draws do not look at the global generator
        model = small_model(*IUQ, "MODEL.IUQ.INTER.MAX_QUERIES", "20")
        runs.append(train_step(model, inputs, times=2)[0])
    for name in runs[0]:
        assert torch.equal(runs[0][name], runs[1][name]), name


def test_memory_state_round_trip(inputs: list[dict[str, Any]]) -> None:
    model = small_model(*IUQ)
    train_step(model, inputs)
    other = small_model(*IUQ)
    other.load_iuq_state(copy.deepcopy(model.iuq_state()))
    for name, value in model.iuq_state().items():
        assert torch.equal(value, other.iuq_state()[name]), name
    assert model.iuq_state()["image_ids"].max() == 2


def test_instance_coordinates_do_not_depend_on_where_the_pixel_lies(inputs: list[dict[str, Any]]) -> None:
    model = small_model(*IUQ, "MODEL.IUQ.INTER.REL_COORDS", "instance")
    losses, _ = train_step(model, inputs)
    assert torch.isfinite(losses["loss_inter"]) and losses["loss_inter"] > 0
    scene, _ = model.forward_scene(inputs)
    pixels = model.iuq_criterion.sampler(scene)
    shift = torch.tensor([64.0, 32.0])
    before = model.retrieve(scene.queries, pixels)
    pixels.locations = pixels.locations + shift
    pixels.context["reference_location"] = pixels.context["reference_location"] + shift
    torch.testing.assert_close(model.retrieve(scene.queries, pixels), before, rtol=1e-4, atol=1e-5)


def test_view_is_the_transformed_image_with_recomputed_boxes() -> None:
    one = discs(64, 96, 3, seed=3)
    g = CropFlip(16, 8, 64, 48, flip=True)
    view = transform_inputs(one, g)
    assert torch.equal(view["image"], one["image"][:, 8:56, 16:80].flip(2))
    kept = one["instances"].gt_masks.tensor[:, 8:56, 16:80].flatten(1).any(1)
    assert len(view["instances"]) == int(kept.sum())
    masks = view["instances"].gt_masks.tensor
    assert torch.equal(masks, one["instances"].gt_masks.tensor[kept][:, 8:56, 16:80].flip(2))
    assert torch.equal(view["instances"].gt_boxes.tensor, view["instances"].gt_masks.get_bounding_boxes().tensor)


def test_odd_views_and_wrong_values_are_refused() -> None:
    with pytest.raises(UserError, match="IMS_PER_BATCH"):
        CondInstIUQ.images_per_batch(small_cfg(*IUQ, "SOLVER.IMS_PER_BATCH", "3"))
    assert CondInstIUQ.images_per_batch(small_cfg(*IUQ, "SOLVER.IMS_PER_BATCH", "6")) == 3
    assert CondInstIUQ.images_per_batch(small_cfg(*IUQ, "MODEL.IUQ.EQUI.VIEWS", "extra")) == 16
    for key, value in (
        ("EQUI.VIEWS", "both"), ("EQUI.TARGET", "mask"), ("INTER.LOSS", "dice"), ("INTER.REL_COORDS", "none"),
        ("INTER.NORMALIZER", "sum"), ("MEMORY.DTYPE", "int8"), ("MEMORY.SAMPLER", "random"), ("EQUI.CROP_MIN", "1.5"),
    ):  # fmt: skip
        with (
            pytest.raises(UserError, match=value.split(".")[0]) if key != "EQUI.CROP_MIN" else pytest.raises(UserError)
        ):
            small_model(*IUQ, f"MODEL.IUQ.{key}", value)


@pytest.mark.slow
def test_amp_bfloat16_trains(inputs: list[dict[str, Any]]) -> None:
    model = small_model(*IUQ)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = train_step(model, inputs)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert losses["loss_inter"].dtype == torch.float32


def test_keys_of_scale_reach_the_memory_and_the_criterion() -> None:
    model = small_model(
        *IUQ, "MODEL.IUQ.INTER.SAMPLE", "50", "MODEL.IUQ.MEMORY.SHARD", "True", "MODEL.IUQ.MEMORY.CHECK_PERIOD", "7",
        "MODEL.IUQ.MEMORY.DTYPE", "bfloat16", "MODEL.REDUCE_NORMALIZER", "True",
    )  # fmt: skip
    criterion = model.iuq_criterion
    assert criterion.inter.sample == 50 and criterion.memory.check_period == 7
    assert criterion.memory.features.dtype == torch.bfloat16
    assert not criterion.memory.sharded  # there is one process only
    assert criterion.reduce_normalizer and model.reduce_normalizer and model.proposal_generator.reduce_normalizer
    default = small_model(*IUQ).iuq_criterion
    assert default.inter.sample == -1 and default.memory.check_period == 0 and not default.reduce_normalizer


def test_instance_coordinates_need_a_memory_that_keeps_the_reference() -> None:
    cfg = small_cfg(*IUQ)
    arguments = CondInstIUQ.from_config(cfg)
    with pytest.raises(ValueError, match="context=REFERENCE"):
        CondInstIUQ(**{**arguments, "rel_coords": "instance"})
    with pytest.raises(ValueError, match="choose one of query, instance"):
        CondInstIUQ(**{**arguments, "rel_coords": "pixel"})
