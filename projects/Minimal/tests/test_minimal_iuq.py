"""The contract of instance-unique querying, checked on Minimal: copy these tests for a segmenter of your own."""

from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from adet_iuq.iuq import Pixels
from adet_iuq.modeling import transform_inputs
from helpers.paired_views import gradients_of
from helpers.scenes import discs


def scenes() -> list[dict[str, Any]]:
    return [discs(64, 96, 3, seed=1), discs(96, 64, 2, seed=2)]


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
    assert losses["loss_mask"] == losses["loss_inter"] == losses["loss_equi"] == 0 and losses["loss_cls"] > 0
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
