"""Costs and matching against whole masks, one pair at a time, and against one image and prediction at a time."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from adet_iuq.modeling.mask2former import mask_losses
from adet_iuq.modeling.mask2former import matcher as matcher_module
from adet_iuq.modeling.mask2former.matcher import HungarianMatcher, Matches, Targets
from adet_iuq.modeling.mask2former.points import sample_maps
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction
from helpers.mask2former_scene import FRAME, pad, random_scene


@pytest.fixture
def scene() -> tuple[list[Prediction], Tensor, list[Targets]]:
    return random_scene()


def stacked(predictions: list[Prediction]) -> tuple[Tensor, Tensor]:
    """The logits and embeddings of all predictions, as the criterion stacks them."""
    return torch.stack([one.logits for one in predictions]), torch.stack([one.embeddings for one in predictions])


@pytest.mark.parametrize("count", [30, 200], ids=["fewer points than cells", "more points than cells"])
def test_costs_are_those_of_whole_masks(scene: tuple[list[Prediction], Tensor, list[Targets]], count: int) -> None:
    """As published: masks first, then points, one loss a pair."""
    predictions, mask_features, targets = scene
    sets = torch.rand(3, count, 2)
    matcher = HungarianMatcher(
        class_weight=2.0, mask_weight=5.0, dice_weight=4.0, num_points=count, source=lambda *_: sets
    )
    logits, embeddings = stacked(predictions)
    costs = matcher.costs(logits[:, 0], embeddings[:, 0], mask_features[0], targets[0], FRAME)
    for prediction, points, cost in zip(predictions, sets, costs, strict=True):
        masks = prediction.masks(mask_features)[0]
        for q in range(6):
            for k in range(3):
                x = sample_maps(masks[None, q : q + 1], points[None])[0]
                t = sample_maps(pad(targets[0].masks)[None, k : k + 1], points[None])[0]
                expected = 5 * mask_losses.cross_entropy(x, t) + 4 * mask_losses.dice(x, t)
                expected -= 2 * prediction.logits[0, q].softmax(-1)[targets[0].labels[k]]
                torch.testing.assert_close(cost[q, k], expected[0], rtol=1e-4, atol=1e-4)


def test_matching_is_that_of_every_image_and_prediction_alone(
    scene: tuple[list[Prediction], Tensor, list[Targets]],
) -> None:
    predictions, mask_features, targets = scene
    sets = torch.rand(3, 30, 2)
    matcher = HungarianMatcher(
        class_weight=2.0, mask_weight=5.0, dice_weight=4.0, num_points=30, source=lambda *_: sets
    )
    logits, embeddings = stacked(predictions)
    matches = matcher(logits, embeddings, mask_features, targets, FRAME)
    assert len(matches) == 3 and matches.counts == [3, 0, 2] and matches.image.tolist() == [0, 0, 0, 2, 2]
    for image in (0, 2):
        mine = matches.image == image
        costs = matcher.costs(logits[:, image], embeddings[:, image], mask_features[image], targets[image], FRAME)
        for index, cost in enumerate(costs):
            query, target = linear_sum_assignment(cost.detach().numpy())
            assert matches.query[index, mine].tolist() == query.tolist()
            assert matches.target[index, mine].tolist() == target.tolist()
            assert matches.last(3 - index).query[0].tolist() == matches.query[index].tolist()


@pytest.mark.parametrize("count", [30, 200], ids=["fewer points than cells", "more points than cells"])
def test_costs_do_not_depend_on_the_size_of_a_chunk(
    scene: tuple[list[Prediction], Tensor, list[Targets]], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    predictions, mask_features, targets = scene
    sets = torch.rand(3, count, 2)
    matcher = HungarianMatcher(
        class_weight=2.0, mask_weight=5.0, dice_weight=4.0, num_points=count, source=lambda *_: sets
    )
    logits, embeddings = stacked(predictions)
    arguments = (logits[:, 0], embeddings[:, 0], mask_features[0], targets[0], FRAME)
    alone = matcher.costs(*arguments)
    monkeypatch.setattr(matcher_module, "_CHUNK_BYTES", {"cpu": 4 * count * 6 * 2})  # two predictions at a time
    torch.testing.assert_close(matcher.costs(*arguments), alone)


def test_values_of_matches_are_ordered_by_image_and_summed_by_prediction() -> None:
    matches = Matches(torch.tensor([0, 0, 2]), torch.tensor([[1, 4, 0], [2, 3, 5]]), torch.zeros(2, 3), [2, 0, 1])
    values = torch.arange(2 * 3 * 6.0).view(2, 3, 6)
    chosen = values[matches.place]
    assert chosen.tolist() == [[1, 4, 12], [20, 21, 35]]
    assert matches.by_image(chosen).tolist() == [1, 4, 20, 21, 12, 35]
    assert matches.sums(matches.by_image(chosen)).tolist() == [17, 76]
