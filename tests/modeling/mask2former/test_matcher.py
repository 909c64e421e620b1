"""Costs and matching against whole masks, one pair at a time, and against one image and prediction at a time."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from adet_iuq.modeling.mask2former import mask_losses
from adet_iuq.modeling.mask2former.matcher import HungarianMatcher, Targets
from adet_iuq.modeling.mask2former.points import sample_maps
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction
from helpers.mask2former_scene import FRAME, pad, random_scene


@pytest.fixture
def scene() -> tuple[list[Prediction], Tensor, list[Targets]]:
    return random_scene()


@pytest.mark.parametrize("count", [30, 200], ids=["fewer points than cells", "more points than cells"])
def test_costs_are_those_of_whole_masks(scene: tuple[list[Prediction], Tensor, list[Targets]], count: int) -> None:
    """As published: masks first, then points, one loss a pair."""
    predictions, mask_features, targets = scene
    sets = torch.rand(3, count, 2)
    matcher = HungarianMatcher(
        class_weight=2.0, mask_weight=5.0, dice_weight=4.0, num_points=count, source=lambda *_: sets
    )
    costs = matcher.costs(predictions, 0, mask_features[:1], targets[0], FRAME)
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
    targets = [targets[0], targets[0], targets[1]]
    mask_features = torch.cat([mask_features, mask_features[:1]])
    predictions = [Prediction(*(torch.cat([x, x[:1]]) for x in (p.logits, p.embeddings))) for p in predictions]
    sets = torch.rand(3, 30, 2)
    matcher = HungarianMatcher(
        class_weight=2.0, mask_weight=5.0, dice_weight=4.0, num_points=30, source=lambda *_: sets
    )
    for index, match in enumerate(matcher(predictions, mask_features, targets, FRAME)):
        assert match.counts == [3, 3, 0] and match.image.tolist() == [0] * 3 + [1] * 3
        for image in range(2):
            cost = matcher.costs(predictions, image, mask_features[image : image + 1], targets[image], FRAME)[index]
            query, target = linear_sum_assignment(cost.detach().numpy())
            mine = match.image == image
            assert match.query[mine].tolist() == query.tolist() and match.target[mine].tolist() == target.tolist()
