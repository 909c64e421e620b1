"""The contract of instance-unique querying on SOLQ, with the pixel heads that it needs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from adet_iuq.checkpoint import Checkpointer
from adet_iuq.errors import UserError
from adet_iuq.iuq import CropFlip, Pixels, Queries, Scene, warp_features
from adet_iuq.modeling import transform_inputs
from adet_iuq.modeling.layers import instance_masks
from helpers.paired_views import gradients_of
from helpers.scenes import discs
from projects.SOLQ.tests.conftest import small_model, with_weights_of


def scenes() -> list[dict[str, Any]]:
    return [discs(64, 96, 3, seed=1), discs(96, 64, 2, seed=2)]


def views_of(model: Any, inputs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    transforms = [model._sample_transform(one) for one in inputs]
    return inputs + [transform_inputs(one, g) for one, g in zip(inputs, transforms, strict=True)], transforms


def test_training_adds_two_losses_to_those_of_the_control_on_the_same_views(model: Any, control: Any) -> None:
    with EventStorage() as storage:
        losses = model(scenes())
    expected = control(views_of(model, scenes())[0])
    assert set(losses) == {*expected, "loss_inter", "loss_equi"}
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    assert losses["loss_inter"] > 0 and losses["loss_equi"] > 0
    assert storage.latest()["iuq/num_valid_pairs"][0] > 0


def test_the_control_adds_the_intra_image_term_to_solqs_losses(control: Any, base: Any) -> None:
    losses, expected = control(scenes()), base(scenes())
    assert set(losses) == {*expected, "loss_pixel_dice", "loss_pixel_bce"}
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    assert 0.5 < losses["loss_pixel_dice"] <= control.mask_loss_ceiling and losses["loss_pixel_bce"] > 0


def test_evaluation_is_solqs(model: Any, control: Any, base: Any) -> None:
    with torch.no_grad():
        ours, same, theirs = ([r["instances"] for r in one.eval()(scenes())] for one in (model, control, base))
    for index, expected in enumerate(theirs):
        for found in (ours[index], same[index]):
            assert len(found) > 0 and torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
            for name in ("scores", "pred_classes", "pred_masks"):
                assert torch.equal(found.get(name), expected.get(name)), name


def test_solq_takes_a_checkpoint_of_it_and_starts_from_its_own(model: Any, base: Any, tmp_path: Path) -> None:
    """The heads are left aside in evaluation; a training from SOLQ's weights begins with new ones."""
    for one in (model, base):
        torch.save(one.state_dict(), tmp_path / f"{type(one).__name__}.pth")
    torch.nn.init.zeros_(base.query_embed.weight)
    Checkpointer(base).load(str(tmp_path / "SOLQIUQ.pth"), strict=True)
    assert torch.equal(base.query_embed.weight, model.query_embed.weight)
    Checkpointer(model).load(str(tmp_path / "SOLQ.pth"))
    with pytest.raises(UserError, match="iuq"):
        Checkpointer(model).load(str(tmp_path / "SOLQ.pth"), strict=True)


def test_without_the_two_losses_it_is_the_control(control: Any) -> None:
    off = ["MODEL.IUQ.INTER.ENABLED", "False", "MODEL.IUQ.EQUI.ENABLED", "False"]
    other = with_weights_of("SOLQIUQ", control, *off)
    with EventStorage():
        losses, expected = other(scenes()), control(scenes())
    assert losses.keys() == expected.keys() and all(torch.equal(losses[name], expected[name]) for name in expected)


def test_each_loss_reaches_what_it_should(model: Any) -> None:
    """Inter-scene: queries only, the bias among them. Equivariance: queries of the views, features of the originals."""
    views, transforms = views_of(model, scenes())
    scene, _ = model.forward_scene(views)
    losses, _ = model.iuq_criterion(model, scene, transforms, num_originals=2, iteration=0)
    (bias,) = torch.autograd.grad(losses["loss_inter"], [model.iuq.bias], retain_graph=True)
    assert bias > 0  # the term alone would drive it down
    features, queries = gradients_of(scene, losses["loss_inter"])
    assert (features == 0).all() and (queries > 0).all()
    features, queries = gradients_of(scene, losses["loss_equi"])
    assert ((features > 0) == torch.tensor([True, True, False, False])).all()
    assert ((queries > 0) == torch.tensor([False, False, True, True])).all()


def test_both_losses_train_the_unified_query(model: Any) -> None:
    """They reach the decoder, whose states are class, box and vector at once, and not the heads of these."""
    with EventStorage():
        losses = model(scenes())
    (losses["loss_inter"] + losses["loss_equi"]).backward()
    reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert "transformer.decoder.layers.1.linear2.weight" in reached and "iuq.query.layers.0.weight" in reached
    assert not any(name.startswith(("class_embed", "vector_embed")) for name in reached)


def test_a_batch_without_instances_leaves_no_parameter_without_a_gradient(model: Any) -> None:
    """Else a training on several processes would wait for the gradient for ever."""
    inputs = scenes()
    for one in inputs:
        height, width = one["image"].shape[1:]
        one["instances"] = Instances((height, width))
        one["instances"].gt_classes = torch.zeros(0, dtype=torch.long)
        one["instances"].gt_masks = BitMasks(torch.zeros(0, height, width, dtype=torch.bool))
        one["instances"].gt_boxes = Boxes(torch.zeros(0, 4))
    with EventStorage():
        losses = model(inputs)
    assert all((value == 0) != name.startswith("loss_ce") for name, value in losses.items()), losses
    torch.stack(list(losses.values())).sum().backward()
    lost = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert lost == []


def test_retrieval_of_a_maps_own_pixels_is_that_of_the_map(model: Any) -> None:
    scene, _ = model.forward_scene(scenes())
    on_maps = model.retrieve_map(scene.queries, scene.features)
    for image in range(2):
        mine = scene.queries.image_index == image
        cells = torch.arange(scene.features[0, 0].numel())
        ids = scene.image_ids[image].expand(len(cells))
        pixels = Pixels(scene.features[image].flatten(1).T, scene.cell_locations(cells), ids)
        retrieved = model.retrieve(scene.queries.select(mine), pixels)
        torch.testing.assert_close(retrieved, on_maps[mine].flatten(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("g", [CropFlip(8, 16, 48, 40, flip=True), CropFlip(16, 8, 48, 56)])
def test_masks_move_with_the_map(model: Any, g: CropFlip) -> None:
    """Stride, offset and mask loss fit each other: a map that holds the masks, cropped and flipped, has no loss."""
    masks = instance_masks(discs(64, 64, 4, seed=5)["instances"])
    maps = (20.0 * model.mask_cells(masks, (8, 8)).float() - 10)[None]
    geometry = {"stride": model.pixel_stride, "offset": model.pixel_offset}
    warped, valid = warp_features(maps, [g], [(64, 64)], **geometry)
    view = g.masks(masks)
    seen = view.flatten(1).sum(1) > 100
    embeddings = torch.cat([torch.eye(4), torch.zeros(4, 1)], dim=1)
    queries = Queries(embeddings, torch.zeros(4, dtype=torch.long), torch.arange(4)).select(seen)
    scene = Scene(queries, warped, **geometry, masks=[view], image_ids=torch.zeros(1), image_sizes=[(g.h, g.w)])
    assert seen.sum() >= 2
    # Cells meet exactly, so that an offset that is wrong by half a pixel shows.
    expected = 20.0 * model.mask_cells(view, (8, 8)).float() - 10
    assert torch.equal(warped[0].where(valid[0], 0), expected.where(valid[0], 0))
    assert model.mask_loss(model.retrieve_map(queries, warped), scene, valid) < 2e-3
    shifted = warped.roll(1, 3)
    assert model.mask_loss(model.retrieve_map(queries, shifted), scene, valid) > 0.1


def test_the_mask_loss_is_the_intra_image_term_without_its_weight() -> None:
    weighted = small_model("SOLQIUQ", "MODEL.SOLQ.PIXEL_WEIGHT", "2.0")
    scene, losses = weighted.forward_scene(scenes())
    logits = weighted.retrieve_map(scene.queries, scene.features)
    loss = weighted.mask_loss(logits, scene, weighted._inside(scene.image_sizes, scene.features))
    factor = weighted.mask_loss_factor(None, {"pixel_weight": 2.0})
    assert factor == weighted.mask_loss_ceiling == 2.0
    torch.testing.assert_close(factor * loss, weighted.base_mask_loss(losses))
    assert weighted.base_mask_loss(losses) == losses["loss_pixel_dice"] + losses["loss_pixel_bce"]


def test_fits_are_scaled_products_and_a_bias(model: Any) -> None:
    states, memory = torch.randn(3, 32), torch.randn(1, 32, 2, 5)
    queries, pixels = model.iuq.queries(states), model.iuq.pixel(memory)
    fits = model.retrieve(
        Queries(queries, torch.zeros(3), torch.zeros(3)),
        Pixels(pixels[0].flatten(1).T, torch.zeros(10, 2), torch.zeros(10)),
    )
    twin = model.iuq.query(states) @ pixels[0].flatten(1) / 4 + model.iuq.bias  # the root of 16 numbers
    torch.testing.assert_close(fits, twin)
    assert model.iuq.bias.sigmoid().item() == pytest.approx(0.01)


def test_instances_smaller_than_half_a_cell_are_left_out(control: Any) -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:40] = True
    masks[1, 20:24, 20:24] = True
    zero, valid = torch.zeros(1, dtype=torch.long), torch.ones(1, 8, 8, dtype=torch.bool)
    logits = torch.randn(2, 8, 8)
    both = control.pixel_losses(logits, zero.expand(2), torch.arange(2), [masks], valid)
    alone = control.pixel_losses(logits[:1], zero, zero, [masks], valid)
    assert all(torch.equal(a, b) for a, b in zip(both, alone, strict=True))
    nothing = control.pixel_losses(logits, zero.expand(2), torch.arange(2), [masks], ~valid)
    assert nothing[0] == nothing[1] == 0


def test_padding_is_no_pixel(control: Any) -> None:
    """What the memory says of cells outside the image neither counts in the intra-image term nor is stored."""
    inputs = scenes()
    done = control.training_pass(inputs)
    assert done.features.shape[2:] == (12, 12)
    inside = control._inside(done.image_sizes, done.features)
    assert inside[0].sum() == 8 * 12 and inside[1].sum() == 12 * 8
    assert not inside[0, 8:].any() and not inside[1, :, 8:].any()
