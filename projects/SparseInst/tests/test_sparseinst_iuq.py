"""SparseInst with instance-unique querying: what it adds, who gets a gradient, geometry, and evaluation as the base's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from adet_iuq.iuq import CropFlip, Pixels, Queries, Scene, warp_features
from adet_iuq.modeling import transform_inputs
from helpers.paired_views import gradients_of
from helpers.scenes import discs
from projects.SparseInst.tests.test_sparseinst import emptied, scenes


def views_of(model: Any, inputs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    transforms = [model._sample_transform(one) for one in inputs]
    return inputs + [transform_inputs(one, g) for one, g in zip(inputs, transforms, strict=True)], transforms


def test_training_adds_two_losses_to_those_of_the_base_on_the_same_views(model: Any, base: Any) -> None:
    with EventStorage() as storage:
        losses = model(scenes())
    expected = base(views_of(model, scenes())[0])
    assert set(losses) == {*expected, "loss_inter", "loss_equi"}
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    assert losses["loss_inter"] > 0 and losses["loss_equi"] > 0
    assert storage.latest()["iuq/num_valid_pairs"][0] > 0


def test_each_loss_reaches_what_it_should(model: Any) -> None:
    """Inter-scene: queries only. Equivariance: the queries of the views, and the features of the originals."""
    views, transforms = views_of(model, scenes())
    scene, _ = model.forward_scene(views)
    losses, _ = model.iuq_criterion(model, scene, transforms, num_originals=2, iteration=0)
    features, queries = gradients_of(scene, losses["loss_inter"])
    assert (features == 0).all() and (queries > 0).all()
    features, queries = gradients_of(scene, losses["loss_equi"])
    assert ((features > 0) == torch.tensor([True, True, False, False])).all()
    assert ((queries > 0) == torch.tensor([False, False, True, True])).all()


def test_inter_scene_gradients_pass_by_the_mask_branch(model: Any) -> None:
    with EventStorage():
        model(scenes())["loss_inter"].backward()
    reached = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}
    assert {"decoder.inst_branch.mask_kernel.weight", "decoder.inst_branch.iam_conv.weight"} <= reached
    assert not {name for name in reached if "mask_branch" in name or "cls_score" in name or "objectness" in name}


def test_a_batch_without_instances_leaves_no_parameter_without_a_gradient(model: Any) -> None:
    with EventStorage():
        losses = model(emptied(scenes()))
    assert losses["loss_mask"] == losses["loss_inter"] == losses["loss_equi"] == 0 and losses["loss_ce"] > 0
    torch.stack(list(losses.values())).sum().backward()
    lost = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert lost == []


def test_evaluation_is_the_base_segmenters(model: Any, base: Any) -> None:
    with torch.no_grad():
        results = [one.eval()(scenes()) for one in (model, base)]
    for ours, theirs in zip(*results, strict=True):
        ours, theirs = ours["instances"], theirs["instances"]
        assert len(ours) > 0 and torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        for name in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(ours.get(name), theirs.get(name)), name


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


def blocks() -> torch.Tensor:
    """(3, 64, 96) bool rectangles with corners at multiples of 16, which the map at stride 8 can hold."""
    masks = torch.zeros(3, 64, 96, dtype=torch.bool)
    masks[0, 16:48, 16:48] = masks[1, 0:32, 64:96] = masks[2, 32:64, 48:80] = True
    return masks


@pytest.mark.parametrize("g", [CropFlip(8, 16, 80, 48, flip=True), CropFlip(16, 8, 80, 56)])
def test_masks_move_with_the_map(model: Any, g: CropFlip) -> None:
    """Stride, offset and mask loss fit each other: of maps that hold the masks, the right one has the least loss."""
    masks = blocks()
    maps = (16.0 * model.mask_cells(masks, (8, 12)).float() - 8)[None]
    geometry = {"stride": model.pixel_stride, "offset": model.pixel_offset}
    warped, valid = warp_features(maps, [g], [(64, 96)], **geometry)
    view = g.masks(masks)
    queries = Queries(torch.eye(3), torch.zeros(3, dtype=torch.long), torch.arange(3))
    scene = Scene(queries, warped, **geometry, masks=[view], image_ids=torch.zeros(1), image_sizes=[(g.h, g.w)])

    def loss(map_of_view: torch.Tensor) -> float:
        return float(model.mask_loss(model.retrieve_map(queries, map_of_view), scene, valid))

    assert valid.any() and not valid.all()
    # Cells meet exactly, so that an offset that is wrong by half a pixel shows.
    expected = 16.0 * model.mask_cells(view, (8, 12)).float() - 8
    assert torch.equal(warped[0].where(valid[0], 0), expected.where(valid[0], 0))
    assert all(loss(warped.roll(shift, axis)) > 1.5 * loss(warped) for shift in (-1, 1) for axis in (2, 3))
    far = warped.clone()
    far[(~valid)[:, None].expand_as(far)] = 1e3
    assert loss(far) == loss(warped)  # what is not valid does not count


def test_the_mask_loss_on_whole_maps_is_the_bases_weighted_two(model: Any) -> None:
    scene, losses = model.forward_scene([discs(64, 64, 3, seed=1), discs(64, 64, 2, seed=2)])  # no padding
    everywhere = torch.ones(2, 8, 8, dtype=torch.bool)
    loss = model.mask_loss(model.retrieve_map(scene.queries, scene.features), scene, everywhere)
    assert model.base_mask_loss(losses) == losses["loss_mask"] + losses["loss_dice"] > 0
    torch.testing.assert_close(loss, model.base_mask_loss(losses))


def test_queries_of_whose_instance_nothing_is_left_do_not_count(model: Any) -> None:
    scene, _ = model.forward_scene(scenes())
    logits = model.retrieve_map(scene.queries, scene.features)
    valid = torch.ones(2, *scene.features.shape[2:], dtype=torch.bool)
    assert model.mask_loss(logits, scene, valid) > 0
    assert model.mask_loss(logits, scene, torch.zeros_like(valid)) == 0
    first = scene.queries.select(scene.queries.image_index == 0)
    alone = Scene(**{**vars(scene), "queries": first})
    valid[1] = False
    torch.testing.assert_close(
        model.mask_loss(logits, scene, valid), model.mask_loss(logits[: len(first)], alone, valid)
    )


def test_stored_cells_lie_in_an_instance_as_the_loss_sees_it(model: Any) -> None:
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:24, 8:24] = True
    masks[1, 0:4, 0:8] = True  # half of a cell is not enough
    cells = model.mask_cells(masks, (8, 8))
    assert cells[0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]] and not cells[1].any()
    assert model.mask_cells(masks[:0], (8, 8)).shape == (0, 8, 8)


def test_the_adapter_is_short() -> None:
    assert len((Path(__file__).parents[1] / "sparseinst_iuq.py").read_text().splitlines()) <= 80
