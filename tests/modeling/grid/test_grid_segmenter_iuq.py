"""SOLOv2IUQ and SOTRIUQ: what instance-unique querying adds in training, and that evaluation is the base model's."""

from typing import Any

import pytest
import torch
from detectron2.structures import Instances
from torch import Tensor

from adet_iuq.iuq import CropFlip, DenseSampler, masks_at_cells
from adet_iuq.iuq.sampling import instance_cells
from adet_iuq.modeling.grid.quarter_masks import quarter_masks
from adet_iuq.modeling.layers import instance_masks
from adet_iuq.modeling.views import transform_inputs
from helpers.grid_cells import cells_of_instances, is_sharp
from helpers.grid_checks import (
    BASE_LOSSES,
    CASES,
    SIZES,
    GridCase,
    check_empty_batch_trains_every_parameter,
    check_sizes,
    train_step,
    two_scenes,
)
from helpers.scenes import discs


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> GridCase:
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case: GridCase) -> Any:
    return case.model(case.iuq_recipe)


@pytest.fixture(scope="module")
def base(case: GridCase, model: Any) -> Any:
    """The base segmenter with the weights of the other, and no more."""
    base = case.model(case.paper, seed=1)
    base.load_state_dict(model.state_dict(), strict=True)
    assert list(model.state_dict()) == list(base.state_dict()) and type(model) is not type(base)
    return base


def test_losses_are_the_base_losses_and_two_more(model: Any) -> None:
    losses, stats = train_step(model, two_scenes())
    assert set(losses) == BASE_LOSSES | {"loss_inter", "loss_equi"}
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values()), losses
    assert stats["iuq/memory_fill"] > 0 and stats["iuq/num_valid_pairs"] > 0


def test_base_losses_of_both_views_are_the_base_models(model: Any, base: Any) -> None:
    inputs = two_scenes()
    transforms = [model._sample_transform(one) for one in inputs]
    views = inputs + [transform_inputs(one, g) for one, g in zip(inputs, transforms, strict=True)]
    losses, _ = train_step(model, inputs)
    for name, loss in base(views).items():
        assert torch.equal(losses[name], loss), name


def test_switched_off_is_the_base_model(case: GridCase, base: Any) -> None:
    """With neither loss enabled only the base losses remain, of the images alone."""
    off = ("MODEL.IUQ.EQUI.ENABLED", "False", "MODEL.IUQ.INTER.ENABLED", "False")
    model = case.model(case.iuq_recipe, *off)
    model.load_state_dict(base.state_dict(), strict=True)
    losses, _ = train_step(model, two_scenes())
    expected = base(two_scenes())
    assert set(losses) == set(expected) == BASE_LOSSES
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


def test_evaluation_is_bit_equal(model: Any, base: Any) -> None:
    with torch.no_grad():
        results = [one.eval()(two_scenes()) for one in (model, base)]
    for one in (model, base):
        one.train()
    for ours, theirs in zip(*results, strict=True):
        fields = [result["instances"].get_fields() for result in (ours, theirs)]
        assert list(fields[0]) == list(fields[1]) and len(ours["instances"]) > 0
        for name, value in fields[0].items():
            value, other = (getattr(one, "tensor", one) for one in (value, fields[1][name]))
            assert torch.equal(value, other), name


def test_empty_batch(case: GridCase) -> None:
    check_empty_batch_trains_every_parameter(case, case.iuq_recipe)


def test_same_seed_same_losses(case: GridCase) -> None:
    """Two runs agree whatever the state of torch's global generator: all draws are keyed to samples."""
    runs: list[dict[str, Tensor]] = []
    for _ in range(2):
        model = case.model(case.iuq_recipe, "MODEL.IUQ.INTER.MAX_QUERIES", "6")
        torch.manual_seed(5 + len(runs))
        runs.append(train_step(model, two_scenes(), times=2)[0])
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.slow
def test_bfloat16_trains(model: Any) -> None:
    """Under autocast all gradients are finite and the added losses are float32."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = train_step(model, two_scenes())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert losses["loss_inter"].dtype == losses["loss_ins"].dtype == torch.float32


@pytest.mark.parametrize("name", SIZES)
def test_sizes(model: Any, name: str) -> None:
    losses = check_sizes(model, SIZES[name])
    assert set(losses) == BASE_LOSSES | {"loss_inter", "loss_equi"}


@pytest.mark.parametrize("target,terms", [("feature", {"loss_equi"}), ("augmentation", set())])
def test_equivariance_targets(case: GridCase, target: str, terms: set[str]) -> None:
    model = case.model(case.iuq_recipe, "MODEL.IUQ.EQUI.TARGET", target, "MODEL.IUQ.INTER.ENABLED", "False")
    losses, _ = train_step(model, two_scenes())
    assert set(losses) - BASE_LOSSES == terms
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_stored_pixels_are_those_that_the_mask_loss_wants_inside(model: Any) -> None:
    """The cells of the published quarter-size masks, which those at pixel 4 i + 2 are not quite."""
    inputs = [discs(130, 190, 6, seed=4)]
    scene, _ = model.forward_scene(inputs)
    size = (scene.features.shape[2], scene.features.shape[3])
    wanted = quarter_masks(scene.masks[0], size).flatten(1) > 0
    assert torch.equal(instance_cells(scene, 0), wanted)
    by_pixel = masks_at_cells(scene.masks[0], scene.stride, scene.offset, size).flatten(1)
    assert not torch.equal(by_pixel, wanted)
    drawn = DenseSampler()(scene).locations
    assert len(drawn) == wanted.any(dim=0).sum()


def test_mirrored_images_have_mirrored_targets(model: Any) -> None:
    """g(I) with annotations computed anew from its masks, for instances that lie clear of boundaries between cells."""
    height, width = 128, 192
    inputs = discs(height, width, 16, seed=4)
    mirrored = transform_inputs(inputs, CropFlip(0, 0, width, height, flip=True))
    assert torch.equal(mirrored["image"], inputs["image"].flip(2))
    masks = instance_masks(inputs["instances"])
    straight, found = (cells(model, one["instances"], (height, width)) for one in (inputs, mirrored))
    sharp = [k for k, mask in enumerate(masks) if all(is_sharp(mask, width / size) for size in model.layout.sizes)]
    assert len(sharp) >= 4
    for k in sharp:
        expected = {(level, row, model.layout.sizes[level] - 1 - column) for level, row, column in straight[k]}
        assert found[k] == expected and len(expected) > 0
    assert any(found[k] != straight[k] for k in sharp)


def cells(model: Any, instances: Instances, frame: tuple[int, int]) -> list[set[tuple[int, int, int]]]:
    targets = model.assign([instances], [instance_masks(instances)], frame)
    return cells_of_instances(targets, model.layout, len(instances))
