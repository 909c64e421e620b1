"""The queries of MaskFormerIUQ: those that decode the matched masks, what they retrieve, and whether stuff has any."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import Queries
from adet_iuq.modeling.mask2former import MaskFormerIUQ
from adet_iuq.modeling.mask2former.matcher import Matches
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction
from helpers.mask2former_iuq import IUQ, train_step, two_images
from helpers.scenes import mask2former_model

PANOPTIC = ("Mask2Former/R50_panoptic_50ep_iuq.yaml", *IUQ[1:])


@pytest.fixture(scope="module")
def inputs() -> list[dict[str, Any]]:
    return two_images()


def matched(model: MaskFormerIUQ, inputs: list[dict[str, Any]]) -> tuple[list[Prediction], Matches, Tensor]:
    """The predictions that have losses, their matches, and the mask features."""
    images = model.preprocess(inputs)
    predictions, features = model._predictions(images)
    frame = (images.tensor.shape[2], images.tensor.shape[3])
    _, matches = model.criterion(predictions, features, model.targets(inputs), frame)
    return predictions[-len(matches) :], matches, features


def test_queries_are_those_that_decode_the_matched_masks(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    predictions, matches, features = matched(model, inputs)
    kept = [torch.ones(4, dtype=torch.bool), torch.ones(3, dtype=torch.bool)]
    queries = Queries(*model._matched(predictions[-1:], matches.last(1), kept))
    assert len(queries) == 7
    masks = predictions[-1].masks(features)[matches.image, matches.query[-1]]
    torch.testing.assert_close(model.retrieve_map(queries, features), masks, rtol=1e-4, atol=1e-4)
    every = Queries(*model._matched(predictions, matches, kept))
    assert len(every) == 4 * 7
    for number, prediction in enumerate(predictions):
        rows = slice(7 * number, 7 * number + 7)
        assert torch.equal(every.embeddings[rows], prediction.embeddings[matches.image, matches.query[number]])
        assert torch.equal(every.target_index[rows], matches.target[number])


@pytest.mark.parametrize(("layers", "number"), [("last", 1), ("all", 4)])
def test_queries_of_a_training_pass_are_those_of_the_layers(
    inputs: list[dict[str, Any]], layers: str, number: int
) -> None:
    model = mask2former_model(*IUQ, "MODEL.IUQ.MASK_FORMER.QUERY_LAYERS", layers)
    found = model.training_pass(inputs)
    assert len(found.embeddings) == 7 * number and len(found.query_sources) == number


def test_retrieval_of_a_map_is_retrieval_of_its_pixels(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    scene, _ = model.forward_scene(inputs)
    pixels = model.iuq_criterion.sampler(scene)
    maps = model.retrieve_map(scene.queries, scene.features)
    pairs = model.retrieve(scene.queries, pixels)
    cells = ((pixels.locations - 2) / 4).long()
    image = torch.isin(pixels.image_ids, scene.image_ids[1:]).long()
    for n, own in enumerate(scene.queries.image_index):
        mine = image == own
        x, y = cells[mine].unbind(1)
        torch.testing.assert_close(pairs[n, mine], maps[n, y, x], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stuff", ["False", "True"])
def test_stuff_counts_as_instances_on_request_only(inputs: list[dict[str, Any]], stuff: str) -> None:
    model = mask2former_model(*PANOPTIC, "MODEL.IUQ.MASK_FORMER.STUFF_INSTANCES", stuff)
    model.things = [0, 2]  # class 1 is stuff
    scene, _ = model.forward_scene(inputs)
    classes = [one["instances"].gt_classes for one in inputs]
    kept = [one != 1 if stuff == "False" else one >= 0 for one in classes]
    assert [len(one) for one in scene.masks] == [int(one.sum()) for one in kept]
    assert len(scene.queries) == sum(int(one.sum()) for one in kept)
    for one, masks, chosen in zip(inputs, scene.masks, kept, strict=True):
        assert torch.equal(masks, one["instances"].gt_masks.tensor[chosen])
    # Each query is still tied to the mask that it was matched with.
    torch.manual_seed(0)
    predictions, matches, _ = matched(model, inputs)
    queries = Queries(*model._matched(predictions[-1:], matches.last(1), kept))
    row = 0
    for image, query, target in zip(matches.image, matches.query[-1], matches.target[-1], strict=True):
        if kept[image][target]:
            assert torch.equal(queries.embeddings[row], predictions[-1].embeddings[image, query])
            assert torch.equal(
                scene.masks[image][queries.target_index[row]], inputs[image]["instances"].gt_masks.tensor[target]
            )
            row += 1
    assert row == len(queries)
    train_step(model, inputs)[0]["loss_equi"].backward()
