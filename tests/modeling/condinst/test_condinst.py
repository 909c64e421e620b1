"""CondInst's own fast paths against slow ones, its options, and inputs that break careless code."""

import pytest
import torch
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.condinst.fcos_targets import Positives
from adet_iuq.modeling.condinst.mask_head import DynamicMaskHead, DynamicQueries
from adet_iuq.modeling.condinst.queries import random_cap, top_scores
from adet_iuq.modeling.layers import dice_losses
from helpers.scenes import discs, small_model

BASE = "CondInst/R50_1x.yaml"


def head(relative: bool = True, layers: int = 3) -> DynamicMaskHead:
    return DynamicMaskHead(
        feature_channels=8, feature_stride=8, channels=8, num_layers=layers, relative_coordinates=relative,
        sizes_of_interest=[64, 128, 256, 512], out_stride=4,
    )  # fmt: skip


def grouped_convolutions(
    head: DynamicMaskHead, queries: DynamicQueries, image: torch.Tensor, maps: torch.Tensor
) -> torch.Tensor:
    """The published form: features and coordinates copied for each query, one group a query."""
    size = (maps.shape[2], maps.shape[3])
    x = maps[image].flatten(2)
    if head.coordinates:
        relative = (queries.locations[:, None] - head.cell_locations(size)) / queries.scales[:, None, None]
        x = torch.cat([relative.transpose(1, 2), x], dim=1)
    x = x.reshape(1, -1, *size)
    weights, biases = head._split(queries.params)
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = F.conv2d(x, weight.flatten(0, 1)[:, :, None, None], bias.flatten(), groups=len(queries.params))
        x = F.relu(x) if index < len(weights) - 1 else x
    return x[0]


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_shared_first_layer_equals_grouped_convolutions(relative: bool, layers: int) -> None:
    dynamic = head(relative, layers)
    image = torch.tensor([1, 0, 1, 2, 0])
    params = torch.randn(5, dynamic.num_params, requires_grad=True)
    queries = DynamicQueries(params, torch.rand(5, 2) * 1300, dynamic.scales(torch.tensor([0, 1, 2, 3, 4])))
    maps = torch.randn(4, 8, 20, 30, requires_grad=True)  # one image without a query
    fast = dynamic.retrieve_map(queries, image, maps)
    slow = grouped_convolutions(dynamic, queries, image, maps)
    scale = slow.abs().max()
    torch.testing.assert_close(fast / scale, slow / scale, rtol=0, atol=2e-6)
    for a, b in zip(
        torch.autograd.grad(fast.square().mean(), [params, maps]),
        torch.autograd.grad(slow.square().mean(), [params, maps]),
        strict=True,
    ):
        torch.testing.assert_close(a / b.abs().max(), b / b.abs().max(), rtol=0, atol=1e-5)


def test_parameter_count_is_published() -> None:
    assert head().num_params == 169 and head(relative=False).num_params == 153


def test_dice_equals_one_mask_per_query() -> None:
    logits = torch.randn(6, 12, 10, requires_grad=True)
    masks = [(torch.rand(k, 12, 10) > 0.6).float() for k in (2, 0, 3)]
    image, instance = torch.tensor([2, 0, 2, 0, 2, 2]), torch.tensor([1, 0, 0, 1, 2, 1])
    valid = torch.rand(3, 12, 10) > 0.3
    for mask_of in (None, valid):
        slow = []
        for n in range(6):
            p, g = logits[n].sigmoid(), masks[image[n]][instance[n]]
            if mask_of is not None:
                p, g = p[mask_of[image[n]]], g[mask_of[image[n]]]
            slow.append(1 - 2 * (p * g).sum() / ((p * p).sum() + (g * g).sum() + 1e-5))
        fast = dice_losses(logits, image, instance, masks, mask_of)
        torch.testing.assert_close(fast, torch.stack(slow))
        torch.testing.assert_close(
            *(torch.autograd.grad(loss.sum(), logits)[0] for loss in (fast, torch.stack(slow))), rtol=1e-4, atol=1e-6
        )


def test_caps() -> None:
    assert random_cap(5, -1, torch.device("cpu")).tolist() == [0, 1, 2, 3, 4]
    drawn = random_cap(50, 7, torch.device("cpu"))
    assert len(set(drawn.tolist())) == 7
    # Image 0: instance 0 with five locations, instance 1 with one; image 1: instance 0 with three.
    image = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    instance = torch.tensor([0, 0, 0, 0, 0, 1, 0, 0, 0])
    scores = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.1, 0.5, 0.7, 0.6])
    zeros = torch.zeros(9, dtype=torch.long)
    positives = Positives(zeros, image, zeros, torch.zeros(9, 2), zeros, torch.zeros(9, 4), instance, [9])
    assert top_scores(positives, scores, 4).tolist() == [1, 3, 5, 7, 8, 6]
    assert top_scores(positives, scores, 1).tolist() == [1, 5, 7]
    nothing = zeros[:0]
    none = Positives(nothing, nothing, nothing, torch.zeros(0, 2), nothing, torch.zeros(0, 4), nothing, [0])
    assert len(top_scores(none, scores[:0], 4)) == 0


@pytest.mark.parametrize(
    "overrides,terms",
    [
        (("MODEL.FCOS.BOX_QUALITY", "iou", "MODEL.FCOS.LOC_LOSS_TYPE", "iou"), {"loss_fcos_iou"}),
        (("MODEL.CONDINST.MASK_BRANCH.SEMANTIC_LOSS_ON", "True"), {"loss_sem", "loss_fcos_ctr"}),
        (("MODEL.FCOS.NORM", "BN", "MODEL.FCOS.LOSS_NORMALIZER_CLS", "moving_fg"), {"loss_fcos_ctr"}),
        (("MODEL.FCOS.NORM", "none", "MODEL.FCOS.CENTER_SAMPLE", "False"), {"loss_fcos_ctr"}),
        (("MODEL.CONDINST.MAX_PROPOSALS", "-1", "MODEL.CONDINST.TOPK_PROPOSALS_PER_IM", "8"), {"loss_fcos_ctr"}),
        (("MODEL.CONDINST.MASK_HEAD.DISABLE_REL_COORDS", "True", "MODEL.FCOS.LOSS_NORMALIZER_CLS", "all"), set()),
        (("MODEL.FCOS.NUM_SHARE_CONVS", "1", "MODEL.CONDINST.MAX_PROPOSALS", "5"), set()),
    ],
)
def test_options_train_with_and_without_instances(overrides: tuple[str, ...], terms: set[str]) -> None:
    model = small_model(BASE, *overrides, "MODEL.BACKBONE.FREEZE_AT", "0")
    for count in (3, 0):
        losses = model([discs(64, 96, count, seed=1), discs(96, 64, 0, seed=2)])
        assert terms <= set(losses) and {"loss_fcos_cls", "loss_fcos_loc", "loss_mask"} <= set(losses)
        torch.stack(list(losses.values())).sum().backward()
        assert all(torch.isfinite(loss) for loss in losses.values()), losses
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_mask_loss_has_the_weight_of_the_config_and_the_guard_knows_it() -> None:
    once, twice = (small_model(BASE, "MODEL.CONDINST.LOSS_WEIGHT_MASK", weight) for weight in ("1.0", "2.0"))
    twice.load_state_dict(once.state_dict())
    inputs = [discs(64, 96, 3, seed=1)]
    losses, doubled = once.train()(inputs), twice.train()(inputs)
    torch.testing.assert_close(doubled.pop("loss_mask"), 2 * losses.pop("loss_mask"))
    torch.testing.assert_close(doubled, losses)
    assert (once.mask_loss_ceiling, twice.mask_loss_ceiling) == (1.0, 2.0)


def test_batch_of_mixed_sizes_equals_single_images() -> None:
    model = small_model(BASE, "MODEL.FCOS.INFERENCE_TH_TEST", "0.0").eval()
    inputs = [discs(64, 64, 2, seed=1), discs(64, 64, 2, seed=2)]
    inputs[1] |= {"height": 90, "width": 30}
    with torch.no_grad():
        together = model(inputs)
        for one, result in zip(inputs, together, strict=True):
            alone = model([one])[0]["instances"]
            joint = result["instances"]
            assert joint.image_size == (one["height"], one["width"])
            torch.testing.assert_close(joint.scores, alone.scores)
            assert (joint.pred_masks == alone.pred_masks).float().mean() > 0.999
        mixed = model([discs(64, 96, 2, seed=3), discs(1, 1, 0, seed=4), discs(300, 20, 1, seed=5)])
    assert [one["instances"].pred_masks.shape[1:] for one in mixed] == [(64, 96), (1, 1), (300, 20)]


def test_no_detection_still_has_masks() -> None:
    model = small_model(BASE, "MODEL.FCOS.INFERENCE_TH_TEST", "1.0").eval()
    with torch.no_grad():
        found = model([discs(64, 96, 2, seed=3)])[0]["instances"]
    assert len(found) == 0 and found.pred_masks.shape == (0, 64, 96)


def test_wrong_options_say_what_is_wrong() -> None:
    for overrides, words in (
        (("MODEL.FCOS.NORM", "LN"), "MODEL.FCOS.NORM"),
        (("MODEL.FCOS.BOX_QUALITY", "score"), "MODEL.FCOS.BOX_QUALITY"),
        (("MODEL.FCOS.TOP_LEVELS", "3"), "TOP_LEVELS"),
        (("MODEL.FCOS.TOP_LEVELS", "1"), "p7"),
        (("MODEL.FCOS.FPN_STRIDES", "[8, 16]"), "FPN_STRIDES"),
        (("MODEL.CONDINST.MASK_OUT_STRIDE", "3"), "MASK_OUT_STRIDE"),
        (("MODEL.CONDINST.TOPK_PROPOSALS_PER_IM", "8"), "TOPK_PROPOSALS_PER_IM"),
        (("MODEL.RESNETS.OUT_FEATURES", "['res4', 'res5']"), "res3"),
    ):
        with pytest.raises(UserError, match=words):
            small_model(BASE, *overrides)
