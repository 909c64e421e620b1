"""What must hold for every segmenter whose queries are grid cells (SOLOv2, SOTR), and for its instance-unique version."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from adet_iuq.modeling.query_segmenter import transform_inputs
from helpers.scenes import discs, small_model

# Instance-unique querying from the first iteration on.
AT_ONCE = ("MODEL.IUQ.INTER.START_ITER", "0", "MODEL.IUQ.INTER.RAMP_ITERS", "0")
BASE_LOSSES = {"loss_ins", "loss_cate"}


def grid_options(section: str) -> tuple[str, ...]:
    """Overrides that make a model of MODEL.<section> small, with discs of about 20 to 60 pixels on several levels."""
    keys = {
        "NUM_CLASSES": "3",
        "NUM_GRIDS": "[5, 4, 4, 3, 2]",
        "FPN_SCALE_RANGES": "((1, 32), (24, 48), (40, 96), (64, 192), (128, 2048))",
        "MASK_CHANNELS": "64",
        "NUM_KERNELS": "32",
        "NUM_MASKS": "32",
    }
    return tuple(word for key, value in keys.items() for word in (f"MODEL.{section}.{key}", value))


def quieten(model: Any) -> None:
    """Weakens the stem, as the goldens do: no norm follows, and random weights would saturate every sigmoid."""
    model.backbone.bottom_up.stem.conv1.norm.weight.fill_(0.01)


def everything_detected(section: str) -> tuple[str, ...]:
    """Overrides that let every cell through."""
    return (f"MODEL.{section}.SCORE_THR", "0.0", f"MODEL.{section}.UPDATE_THR", "0.0")


def two_scenes() -> list[dict[str, Any]]:
    """Two training inputs of different size."""
    return [discs(96, 128, 4, seed=1), discs(128, 96, 3, seed=2)]


def train_step(model: Any, inputs: list[dict[str, Any]], times: int = 1) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses of the last of so many forward passes, and what was logged."""
    with EventStorage() as storage:
        for _ in range(times):
            losses = model(inputs)
        return losses, {name: value for name, (value, _) in storage.latest().items()}


def gradient_sizes(model: Any, loss: Tensor) -> dict[str, float]:
    """Sum of absolute gradients of every parameter; 0.0 where the loss does not reach."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: 0.0 if parameter.grad is None else parameter.grad.abs().sum().item()
        for name, parameter in model.named_parameters()
    }


def check_two_more_losses(model: Any) -> None:
    """The base losses, `loss_inter` and `loss_equi`, all of them at work."""
    losses, stats = train_step(model, two_scenes())
    assert set(losses) == BASE_LOSSES | {"loss_inter", "loss_equi"}
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values()), losses
    assert stats["iuq/memory_fill"] > 0 and stats["iuq/num_valid_pairs"] > 0


def check_base_losses_of_both_views(model: Any, base: Any) -> None:
    """On images and transformed images the instance-unique `model` has exactly the losses of the `base` model."""
    base.load_state_dict(model.state_dict(), strict=True)
    inputs = two_scenes()
    transforms = [model._sample_transform(one) for one in inputs]
    views = inputs + [transform_inputs(one, g) for one, g in zip(inputs, transforms, strict=True)]
    losses, _ = train_step(model, inputs)
    for name, loss in base(views).items():
        assert torch.equal(losses[name], loss), name


def check_switched_off_is_the_base_model(recipe: str, base: Any, *overrides: str) -> None:
    """With neither loss enabled only the base losses remain, of the images alone."""
    off = ("MODEL.IUQ.EQUI.ENABLED", "False", "MODEL.IUQ.INTER.ENABLED", "False")
    model = small_model(recipe, *overrides, *off)
    base.load_state_dict(model.state_dict(), strict=True)
    inputs = two_scenes()
    losses, _ = train_step(model, inputs)
    expected = base(inputs)
    assert set(losses) == set(expected) == BASE_LOSSES
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


def check_evaluation_is_bit_equal(model: Any, base: Any) -> None:
    """The same weights, the same results, field by field; both models let every cell through."""
    base.load_state_dict(model.state_dict(), strict=True)
    assert list(model.state_dict()) == list(base.state_dict()) and type(model) is not type(base)
    with torch.no_grad():
        results = [one.eval()(two_scenes()) for one in (model, base)]
    model.train()
    for ours, theirs in zip(*results, strict=True):
        fields = [result["instances"].get_fields() for result in (ours, theirs)]
        assert list(fields[0]) == list(fields[1]) and len(ours["instances"]) > 0
        for name, value in fields[0].items():
            value, other = (getattr(one, "tensor", one) for one in (value, fields[1][name]))
            assert torch.equal(value, other), name


def check_empty_batch_trains_every_parameter(recipe: str, *overrides: str) -> None:
    """Without a single instance all losses are finite, those of masks zero, and every parameter has a gradient."""
    model = small_model(recipe, *overrides, "MODEL.BACKBONE.FREEZE_AT", "0")
    losses, _ = train_step(model, [discs(64, 64, 0, seed=1), discs(64, 96, 0, seed=2)])
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(loss == 0 for name, loss in losses.items() if name != "loss_cate")
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def check_same_seed_same_losses(recipe: str, *overrides: str) -> None:
    """Two runs agree whatever the state of torch's global generator: all draws are keyed to samples."""
    runs: list[dict[str, Tensor]] = []
    for _ in range(2):
        model = small_model(recipe, *overrides, "MODEL.IUQ.INTER.MAX_QUERIES", "6")
        torch.manual_seed(5 + len(runs))
        runs.append(train_step(model, two_scenes(), times=2)[0])
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def check_bfloat16_trains(model: Any) -> None:
    """Under autocast all gradients are finite and the added losses are float32."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = train_step(model, two_scenes())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert losses["loss_inter"].dtype == losses["loss_ins"].dtype == torch.float32


def check_sizes(model: Any, sizes: Sequence[tuple[int, int]] = ((64, 96), (1, 1), (300, 20), (33, 33))) -> None:
    """A batch of mixed sizes gives masks of each image's size and trains, and so does each image alone."""
    inputs = [discs(*size, 2 if min(size) > 1 else 0, seed=index) for index, size in enumerate(sizes)]
    with torch.no_grad():
        model.eval()
        for batch in (inputs, *([one] for one in inputs)):
            found = [result["instances"].pred_masks.shape[1:] for result in model(batch)]
            assert found == [(one["height"], one["width"]) for one in batch]
    model.train()
    for batch in (inputs, [inputs[1]]):
        losses, _ = train_step(model, batch)
        assert all(torch.isfinite(loss) for loss in losses.values()), losses


def check_same_sizes_do_not_mix(model: Any) -> None:
    """Images of one size have the same results together as alone."""
    inputs = [discs(64, 96, 2, seed=1), discs(64, 96, 3, seed=2) | {"height": 90, "width": 30}]
    with torch.no_grad():
        model.eval()
        for one, result in zip(inputs, model(inputs), strict=True):
            alone, joint = model([one])[0]["instances"], result["instances"]
            assert joint.image_size == (one["height"], one["width"]) and len(joint) > 0
            torch.testing.assert_close(joint.scores, alone.scores)
            assert (joint.pred_masks == alone.pred_masks).float().mean() > 0.999
    model.train()
