"""The base segmenter: targets, assignment, losses, results; a batch without instances, and images of different sizes."""

import itertools
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances
from torch.nn import functional as F

from adet_iuq.config import get_cfg, load_config
from adet_iuq.errors import UserError
from helpers.scenes import discs
from projects.SparseInst.config import add_config, check_config
from projects.SparseInst.criterion import dice_losses, mask_ious, pixel_losses
from projects.SparseInst.decoder import InstanceBranch, coordinates
from projects.SparseInst.inference import best, binary_masks, maskness
from projects.SparseInst.targets import Matcher, Targets, of_pairs, soft_masks
from projects.SparseInst.tests.conftest import PROJECT, SMALL, built


def scenes() -> list[dict[str, Any]]:
    """Sizes that are no multiples of 32, nor of 4."""
    return [discs(66, 97, 4, seed=1), discs(95, 63, 3, seed=2)]


def emptied(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for one in inputs:
        height, width = one["image"].shape[1:]
        one["instances"] = Instances((height, width))
        one["instances"].gt_classes = torch.zeros(0, dtype=torch.long)
        one["instances"].gt_masks = BitMasks(torch.zeros(0, height, width, dtype=torch.bool))
        one["instances"].gt_boxes = Boxes(torch.zeros(0, 4))
    return inputs


@pytest.mark.parametrize("size", [(64, 96), (61, 94), (63, 65), (1, 2)])
def test_soft_masks_are_a_bilinear_resize_of_the_padded_masks(size: tuple[int, int]) -> None:
    masks = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    padded = F.pad(masks.float(), (0, 96 - size[1], 0, 64 - size[0]))[:, None]
    twin = F.interpolate(padded, scale_factor=0.25, mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(soft_masks(masks, (16, 24)), twin)
    assert soft_masks(masks[:0], (16, 24)).shape == (0, 16, 24)


def test_coordinates_include_the_ends_and_x_comes_first() -> None:
    x, y = coordinates(torch.zeros(1, 3, 3, 5))[0]
    assert x[1].tolist() == [-1, -0.5, 0, 0.5, 1] and y[:, 4].tolist() == [-1, 0, 1]
    assert coordinates(torch.zeros(1, 3, 1, 2))[0, 1].tolist() == [[-1, -1]]  # the published code divides by zero


@pytest.mark.parametrize("groups,soft", [(None, False), (2, False), (2, True)])
def test_pooled_features_are_weighted_means_of_the_groups_side_by_side(groups: int | None, soft: bool) -> None:
    torch.manual_seed(0)
    sizes = {"dim": 4, "num_convs": 1, "num_masks": 3, "num_classes": 2, "kernel_dim": 5}
    branch = InstanceBranch(6, groups=groups, soft=soft, **sizes)
    x = torch.randn(2, 6, 3, 4)
    logits, kernels, objectness = branch(x)
    assert (logits.shape, kernels.shape, objectness.shape) == ((2, 3, 2), (2, 3, 5), (2, 3))
    features = branch.inst_convs(x)
    maps = branch.iam_conv(features)
    query, image = 2, 1
    parts = []
    for group in range(groups or 1):
        own = maps[image, group * 3 + query]
        weights = own.flatten().softmax(0).view_as(own) if soft else own.sigmoid() / own.sigmoid().sum()
        parts.append((weights * features[image]).sum((1, 2)))
    pooled = torch.cat(parts)
    pooled = pooled if groups is None else branch.fc(pooled).relu()
    torch.testing.assert_close(kernels[image, query], branch.mask_kernel(pooled), rtol=1e-4, atol=1e-5)


def test_the_assignment_has_the_largest_sum_and_images_do_not_meet() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 5, 3), torch.randn(2, 5, 6, 7)
    targets = [Targets(torch.randint(0, 3, (k,)), torch.rand(k, 6, 7).round()) for k in (3, 0)]
    matcher = Matcher(0.8, 0.2)
    matches = matcher(logits, masks, targets)
    assert matches.counts == [3, 0] and matches.image.tolist() == [0, 0, 0]
    scores = matcher.scores(logits[0], masks[0], targets[0])
    wanted = max(
        itertools.permutations(range(5), 3), key=lambda queries: sum(scores[q, k] for k, q in enumerate(queries))
    )
    assert dict(zip(matches.target.tolist(), matches.query.tolist(), strict=True)) == dict(enumerate(wanted))
    assert matches.query.tolist() == sorted(matches.query.tolist())
    many = Targets(torch.zeros(8, dtype=torch.long), torch.rand(8, 6, 7))
    assert matcher(logits[:1], masks[:1], [many]).counts == [5]  # as many as there are queries
    nothing = matcher(logits, masks * float("nan"), targets)
    assert nothing.counts == [3, 0]


def test_rows_of_pairs() -> None:
    values = [torch.arange(3), torch.zeros(0, dtype=torch.long), 10 + torch.arange(2)]
    assert of_pairs(values, torch.tensor([2, 0, 2]), torch.tensor([1, 2, 0])).tolist() == [11, 2, 10]


def test_losses_over_valid_pixels_are_those_of_the_cut_masks() -> None:
    torch.manual_seed(0)
    logits, wanted = torch.randn(4, 6, 8), torch.rand(4, 6, 8)
    valid = torch.zeros(4, 6, 8, dtype=torch.bool)
    valid[:, :4, :5] = True
    for loss in (pixel_losses, dice_losses):
        torch.testing.assert_close(loss(logits, wanted, valid), loss(logits[:, :4, :5], wanted[:, :4, :5]))
        assert loss(20 * (2 * (wanted > 0.5).float() - 1), (wanted > 0.5).float()).max() < 1e-4


def test_ious_take_a_lower_threshold_for_predictions_and_leave_half_targets_out() -> None:
    logits = torch.logit(torch.tensor([[[0.39, 0.41, 0.9, 0.1]]]))
    assert mask_ious(logits, torch.tensor([[[1.0, 0.75, 0.5, 0.0]]])).item() == pytest.approx(1 / 3)


def test_a_batch_without_instances_leaves_no_parameter_without_a_gradient(base: Any) -> None:
    """The published code stops there, and several processes would wait for the gradient for ever."""
    losses = base(emptied(scenes()))
    assert losses["loss_mask"] == losses["loss_dice"] == losses["loss_objectness"] == 0 and losses["loss_ce"] > 0
    torch.stack(list(losses.values())).sum().backward()
    lost = [name for name, one in base.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert lost == []


def test_images_of_different_sizes_train_together(base: Any) -> None:
    done = base.training_pass(scenes())
    assert done.features.shape == (2, 16, 96 // 8, 128 // 8)  # padded to multiples of 32
    assert done.image_sizes == [(66, 97), (95, 63)] and [len(one) for one in done.masks] == [4, 3]
    assert done.embeddings.shape == (7, 16) and done.image_index.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert sorted(done.target_index[:4].tolist()) == [0, 1, 2, 3]
    assert set(done.losses) == {"loss_ce", "loss_mask", "loss_dice", "loss_objectness"}
    torch.stack(list(done.losses.values())).sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in base.parameters())


@pytest.mark.slow
def test_losses_fall_when_one_batch_is_learned(base: Any) -> None:
    optimizer = torch.optim.AdamW(base.parameters(), lr=1e-3)
    totals = []
    for _ in range(15):
        total = torch.stack(list(base(scenes()).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


def test_results_lie_at_the_wished_size_and_no_more_than_are_asked_for(base: Any) -> None:
    inputs = [{**scenes()[0], "height": 130, "width": 201}, emptied(scenes())[1]]
    base.eval()
    base.cls_threshold = 0.0
    found = [result["instances"] for result in base(inputs)]
    assert [one.image_size for one in found] == [(130, 201), (95, 63)]
    for one in found:
        assert len(one) == 20 and one.pred_masks.shape == (20, *one.image_size)  # one result a query
        assert one.pred_classes.max() < 3
        for mask, (x0, y0, x1, y1) in zip(one.pred_masks, one.pred_boxes.tensor.int().tolist(), strict=True):
            assert mask.sum() == mask[y0:y1, x0:x1].sum()
    base.detections_per_image = 6
    fewer = base(inputs)[0]["instances"]
    assert sorted(fewer.scores.tolist()) == pytest.approx(sorted(found[0].scores.tolist())[-6:])
    base.cls_threshold = 1.0
    nothing = base(inputs)[0]["instances"]
    assert len(nothing) == 0 and nothing.pred_masks.shape == (0, 130, 201) and nothing.pred_boxes.tensor.shape == (0, 4)


def test_masks_are_cut_to_the_image_before_they_are_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.rand(5, 16, 24, generator=torch.Generator().manual_seed(0))
    sizes = ((64, 96), (50, 81), (75, 30), 0.45)
    full = F.interpolate(masks[None], size=(64, 96), mode="bilinear", align_corners=False)[..., :50, :81]
    twin = F.interpolate(full, size=(75, 30), mode="bilinear", align_corners=False)[0] > 0.45
    assert torch.equal(torch.cat(list(binary_masks(masks, *sizes))), twin)
    monkeypatch.setattr("projects.SparseInst.inference.CHUNK_BYTES", 2 * 4 * 64 * 96)
    chunks = list(binary_masks(masks, *sizes))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1] and torch.equal(torch.cat(chunks), twin)


def test_maskness_and_the_best_in_their_order() -> None:
    masks = torch.tensor([[[0.5, 0.9, 0.1]], [[0.1, 0.2, 0.45]]])
    assert maskness(masks, 0.45).tolist() == pytest.approx([0.7, 0.0], abs=1e-5)
    assert best(torch.tensor([0.3, 0.9, 0.1, 0.5]), 2).tolist() == [1, 3]
    assert best(torch.tensor([0.3, 0.9]), 5).tolist() == [0, 1]


@pytest.fixture
def cfg() -> CfgNode:
    return get_cfg(add_config)


def test_defaults_are_known(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    check_config(cfg)
    assert "SOLVER.OPTIMIZER is SGD" in caplog.text


def test_the_recipes_optimiser_is_the_published_one(caplog: pytest.LogCaptureFixture) -> None:
    check_config(load_config(str(PROJECT / "configs/R50_giam.yaml"), [], add_config).cfg)
    assert not caplog.records


@pytest.mark.parametrize(
    "key,value",
    [
        ("MODEL.SPARSE_INST.ENCODER.NAME", "FPNPPMEncoder"),
        ("MODEL.SPARSE_INST.DECODER.NAME", "Other"),
        ("MODEL.SPARSE_INST.DECODER.SCALE_FACTOR", 4.0),
        ("MODEL.SPARSE_INST.LOSS.ITEMS", ["labels"]),
        ("SOLVER.AMSGRAD", True),
    ],
)
def test_values_that_nothing_stands_for_are_refused(cfg: CfgNode, key: str, value: Any) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        check_config(cfg)


def test_bfloat16_keeps_assignment_and_losses_in_float32(base: Any) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        done = base.training_pass(scenes())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in done.losses.values())
    assert done.features.dtype == done.embeddings.dtype == torch.float32


def test_every_decoder_of_the_published_recipes_trains() -> None:
    for recipe in ("R50_base", "R50_giam_soft"):
        losses = built(recipe, SMALL)(scenes())
        assert all(loss.isfinite() for loss in losses.values())
