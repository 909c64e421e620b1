"""Mask2Former's fast paths against slow ones, its options, and inputs that break careless code."""

from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import PolygonMasks
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.config import load_config
from adet_iuq.errors import UserError
from adet_iuq.modeling.layers import dot_product_maps, instance_masks, mask_boxes
from adet_iuq.modeling.mask2former import MaskFormer, mask_losses
from adet_iuq.modeling.mask2former.criterion import SetCriterion
from adet_iuq.modeling.mask2former.inference import (
    OutputGeometry,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from adet_iuq.modeling.mask2former.matcher import HungarianMatcher, Targets
from adet_iuq.modeling.mask2former.points import (
    avoids_invalid,
    sample_bit_masks,
    sample_cells,
    sample_maps,
    uncertain_points,
    uniform_points,
)
from adet_iuq.modeling.mask2former.transformer_decoder import Attention, Prediction, attended_cells
from helpers.scenes import discs, mask2former_model, windowed_maps

BASE = "Mask2Former/R50_50ep.yaml"
FRAME = (32, 48)


@pytest.fixture
def scene() -> tuple[list[Prediction], Tensor, list[Targets]]:
    """Three predictions of 6 queries on maps (2, 5, 8, 12), and targets: three, and none."""
    torch.manual_seed(0)
    predictions = [
        Prediction(torch.randn(2, 6, 4, requires_grad=True), torch.randn(2, 6, 5, requires_grad=True)) for _ in range(3)
    ]
    mask_features = torch.randn(2, 5, 8, 12, requires_grad=True)
    targets = [
        Targets(torch.tensor([0, 2, 2]), torch.rand(3, 30, 40) > 0.6),
        Targets(torch.zeros(0, dtype=torch.long), torch.zeros(0, 32, 48, dtype=torch.bool)),
    ]
    return predictions, mask_features, targets


def criterion(**changes: Any) -> SetCriterion:
    settings = {
        "num_classes": 3, "no_object_weight": 0.1, "class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 4.0,
        "num_points": 40, "oversample_ratio": 3.0, "importance_ratio": 0.75, "deep_supervision": True,
    }  # fmt: skip
    return SetCriterion(**{**settings, **changes})


def pad(masks: Tensor) -> Tensor:
    return F.pad(masks.float(), (0, FRAME[1] - masks.shape[2], 0, FRAME[0] - masks.shape[1]))


# Points


def test_bit_masks_are_sampled_like_float_maps() -> None:
    masks = torch.rand(4, 30, 40) > 0.5
    points = torch.rand(4, 500, 2) * 1.2 - 0.1
    expected = sample_maps(pad(masks)[:, None], points)[:, 0]
    torch.testing.assert_close(sample_bit_masks(masks, points, FRAME), expected, rtol=0, atol=1e-5)
    shared = sample_bit_masks(masks, points[:1], FRAME)
    torch.testing.assert_close(shared[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(shared, sample_maps(pad(masks)[None], points[:1])[0], rtol=0, atol=1e-5)


def test_most_points_lie_where_the_mask_is_uncertain() -> None:
    # Fixed, because logits shrink within half a cell of the frame: one draw in ten has a chosen point there, farther out.
    torch.manual_seed(0)
    logits = torch.linspace(-10, 10, 64).expand(2, 64, 64).contiguous()  # zero in the middle column
    points = uncertain_points(logits, 100, oversample_ratio=3.0, importance_ratio=0.75, source=uniform_points)
    assert points.shape == (2, 100, 2)
    from_edge = (points[..., 0] - 0.5).abs()
    assert (from_edge[:, :75] < 0.2).all() and (from_edge[:, 75:] > 0.2).any()
    assert len(points.unique(dim=1)[0]) == 100


def test_points_near_invalid_cells_come_last() -> None:
    logits, valid = torch.zeros(1, 16, 16), torch.ones(1, 16, 16)
    valid[:, :, 8:] = 0
    points = uncertain_points(
        logits, 100, oversample_ratio=4.0, importance_ratio=0.75, source=uniform_points, valid=valid
    )
    assert avoids_invalid(valid, points)[:, :75].all()
    assert points[0, :75, 0].max() <= 7.51 / 16  # beyond, cell 8 has a share


# Losses


def test_mask_losses_are_their_formulas_and_leave_points_out() -> None:
    logits, targets = torch.randn(3, 20, dtype=torch.float64) * 3, torch.rand(3, 20, dtype=torch.float64)
    p = logits.sigmoid()
    cross = -(targets * p.log() + (1 - targets) * (1 - p).log())
    focal = -(0.3 * targets * (1 - p) ** 1.5 * p.log() + 0.7 * (1 - targets) * p**1.5 * (1 - p).log())
    torch.testing.assert_close(mask_losses.cross_entropy(logits, targets), cross.mean(1))
    torch.testing.assert_close(mask_losses.focal(logits, targets, 0.3, 1.5), focal.mean(1))
    dice = 1 - (2 * (p * targets).sum(1) + 1) / (p.sum(1) + targets.sum(1) + 1)
    torch.testing.assert_close(mask_losses.dice(logits, targets), dice)
    valid = torch.zeros(3, 20, dtype=torch.bool)
    valid[0, :7] = valid[1] = True
    for loss in (mask_losses.cross_entropy, mask_losses.dice):
        found = loss(logits, targets, valid)
        torch.testing.assert_close(found[0], loss(logits[:1, :7], targets[:1, :7])[0])
        torch.testing.assert_close(found[1], loss(logits[1:2], targets[1:2])[0])
        assert found[2] == 0


def test_cells_side_by_side_are_sampled_as_maps() -> None:
    maps, points = torch.randn(1, 5, 8, 12), torch.rand(1, 60, 2)
    points[0, :4] = torch.tensor(
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    )  # half of their neighbours lie outside
    cells = maps[0].flatten(1).T.contiguous()
    torch.testing.assert_close(sample_cells(cells, (8, 12), points[0]).T, sample_maps(maps, points)[0])


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


def test_more_targets_than_queries_and_costs_that_are_not_finite() -> None:
    many = Targets(torch.zeros(9, dtype=torch.long), torch.rand(9, *FRAME) > 0.5)
    logits = torch.randn(1, 6, 4)
    logits[0, 0] = torch.nan
    prediction = Prediction(logits, torch.randn(1, 6, 5))
    losses, matches = criterion()([prediction], torch.randn(1, 5, 8, 12), [many], FRAME)
    assert matches[0].counts == [6] and len(matches[0].target.unique()) == 6
    assert losses["loss_ce"].isnan() and losses["loss_mask"].isfinite()


def test_losses_are_the_written_out_ones(scene: tuple[list[Prediction], Tensor, list[Targets]]) -> None:
    predictions, mask_features, targets = scene
    fixed = torch.rand(40, 2)
    module = criterion(importance_ratio=0.0)
    module.source = module.matcher.source = lambda rows, count, device: fixed[:count].repeat(rows, 3, 1)[:, :count]
    losses, matches = module(predictions, mask_features, targets, FRAME)
    assert list(losses) == [f"loss_{term}{suffix}" for suffix in ("", "_1", "_0") for term in ("ce", "mask", "dice")]
    for suffix, prediction, match in zip(("_0", "_1", ""), predictions, matches, strict=True):
        masks = prediction.masks(mask_features)[0, match.query]
        x = sample_maps(masks[None], fixed[None])[0]
        t = sample_maps(pad(targets[0].masks[match.target])[None], fixed[None])[0]
        expected = 5 * mask_losses.cross_entropy(x, t).sum() / 3
        torch.testing.assert_close(losses[f"loss_mask{suffix}"], expected)
        torch.testing.assert_close(losses[f"loss_dice{suffix}"], 4 * mask_losses.dice(x, t).sum() / 3)
        classes = torch.full((2, 6), 3)
        classes[0, match.query] = targets[0].labels[match.target]
        weight = torch.where(classes == 3, 0.1, 1.0)
        cross = F.cross_entropy(prediction.logits.flatten(0, 1), classes.flatten(), reduction="none")
        torch.testing.assert_close(losses[f"loss_ce{suffix}"], 2 * (cross * weight.flatten()).sum() / weight.sum())


def test_without_deep_supervision_only_the_last_prediction_is_trained(
    scene: tuple[list[Prediction], Tensor, list[Targets]],
) -> None:
    predictions, mask_features, targets = scene
    losses, matches = criterion(deep_supervision=False)(predictions, mask_features, targets, FRAME)
    assert list(losses) == ["loss_ce", "loss_mask", "loss_dice"] and len(matches) == 1
    torch.stack(list(losses.values())).sum().backward()
    assert predictions[0].logits.grad is None and predictions[2].logits.grad is not None


def test_points_are_fixed_by_the_seed(scene: tuple[list[Prediction], Tensor, list[Targets]]) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(criterion()(*scene, FRAME)[0]["loss_mask"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


# Decoders


def test_attention_is_torch_s_own() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    attend = torch.rand(2, 5, 7) > 0.4
    attend[..., 0] = True
    expected, _ = theirs(query, key, value, attn_mask=~attend.repeat_interleave(4, 0), need_weights=False)
    torch.testing.assert_close(ours(query, key, value, attend), expected, rtol=1e-5, atol=1e-6)


def test_queries_attend_inside_their_mask_or_everywhere() -> None:
    embeddings = torch.tensor([[[1.0], [-1.0], [-2.0]]])
    features = torch.tensor([[[0.5, 0.0, -3.0]]])
    assert attended_cells(embeddings, features).tolist() == [
        [[True, True, False], [False, True, True], [False, True, True]]
    ]
    assert attended_cells(embeddings, torch.ones(1, 1, 3))[0, 1].all()


def test_dot_product_maps_pairs_queries_with_their_own_image() -> None:
    embeddings, maps = torch.randn(5, 4), torch.randn(3, 4, 6, 7)
    image = torch.tensor([2, 0, 2, 0, 2])  # none of image 1
    expected = torch.einsum("qd,qdhw->qhw", embeddings, maps[image])
    torch.testing.assert_close(dot_product_maps(embeddings, image, maps), expected, rtol=1e-5, atol=1e-5)
    assert dot_product_maps(embeddings[:0], image[:0], maps).shape == (0, 6, 7)


# Inference


def test_resizing_in_chunks_equals_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, geometry = torch.randn(7, 8, 12), OutputGeometry(FRAME, (30, 40), (61, 35))
    expected = F.interpolate(masks[None], size=FRAME, mode="bilinear", align_corners=False)[..., :30, :40]
    expected = F.interpolate(expected, size=(61, 35), mode="bilinear", align_corners=False)[0]
    monkeypatch.setattr("adet_iuq.modeling.mask2former.inference.CHUNK_BYTES", 4 * 32 * 48 * 2)
    torch.testing.assert_close(geometry.resize(masks), expected)


@pytest.mark.parametrize("output", [(30, 40), (61, 35), (12, 90)])
def test_windows_hold_what_whole_images_have_above_zero(output: tuple[int, int]) -> None:
    masks, geometry = windowed_maps(8, 12) - 0.5, OutputGeometry(FRAME, (30, 40), output)
    full = geometry.resize(masks)
    for whole, (values, top, left) in zip(full, geometry.windows(masks), strict=True):
        part = torch.full(output, -1.0)
        part[top : top + values.shape[1], left : left + values.shape[2]] = values[0]
        assert torch.equal(part > 0, whole > 0)
        torch.testing.assert_close(part[part > 0], whole[whole > 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("encode", [False, True])
def test_instances_are_the_best_pairs_one_by_one(encode: bool) -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(5, 4), torch.randn(5, 8, 12)
    masks[2] = -1.0  # an empty mask
    masks[3, 4:] = masks[3, :, :3] = -2.0  # a window
    geometry = OutputGeometry(FRAME, (30, 40), (30, 40))
    found = instance_inference(logits, masks, geometry, count=12, things=[0, 2], encode=encode)
    pred_masks = found.pred_masks.decoded() if encode else found.pred_masks
    full = geometry.resize(masks)
    best = sorted(((s, q, c) for q, row in enumerate(logits.softmax(-1)[:, :3].tolist()) for c, s in enumerate(row)))
    expected = []
    for score, query, label in best[-12:]:
        inside = full[query] > 0
        quality = (full[query].sigmoid() * inside).sum() / (inside.sum() + 1e-6)
        if label in (0, 2):
            expected.append((score * float(quality), label, int(inside.sum())))
    ours = zip(found.scores.tolist(), found.pred_classes.tolist(), pred_masks.sum((1, 2)).tolist(), strict=True)
    for one, other in zip(sorted(ours), sorted(expected), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert len(instance_inference(logits, masks, geometry, count=100, things=None)) == 15  # fewer pairs than asked for


def test_boxes_enclose_masks() -> None:
    masks = torch.zeros(2, 9, 12, dtype=torch.bool)
    masks[0, 2:5, 3] = masks[0, 4, 3:10] = True
    assert mask_boxes(masks).tolist() == [[3, 2, 10, 5], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def slow_panoptic(
    logits: Tensor, masks: Tensor, things: list[int], score_threshold: float, overlap: float
) -> tuple[Tensor, list[tuple[int, bool, int]]]:
    """The rules of docs/parity/mask2former.md, "Inference", query by query."""
    probabilities = logits.softmax(-1)
    kept = [
        q
        for q in range(len(logits))
        if probabilities[q].argmax() != logits.shape[1] - 1 and probabilities[q].max() > score_threshold
    ]
    result = torch.zeros(masks.shape[1:], dtype=torch.int32)
    segments: list[tuple[int, bool, int]] = []
    stuff: dict[int, int] = {}
    if not kept:
        return result, []
    owner = torch.stack([probabilities[q].max() * masks[q].sigmoid() for q in kept]).argmax(0)
    for index, q in enumerate(kept):
        a, b, label = owner == index, masks[q].sigmoid() >= 0.5, int(probabilities[q].argmax())
        if not a.any() or not b.any() or not (a & b).any() or a.sum() / b.sum() < overlap:
            continue
        if label not in things and label in stuff:
            result[a & b] = stuff[label]
            continue
        segments.append((len(segments) + 1, label in things, label))
        if label not in things:
            stuff[label] = len(segments)
        result[a & b] = len(segments)
    return result, segments


@pytest.mark.parametrize("score_threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("overlap", [0.0, 0.4])
def test_panoptic_rules_one_by_one(score_threshold: float, overlap: float) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        logits, masks = torch.randn(12, 5) * 3, torch.randn(12, 20, 30) * 3 - 1
        ours, segments = panoptic_inference(logits, masks, [0, 1], score_threshold, overlap)
        expected, rows = slow_panoptic(logits, masks, [0, 1], score_threshold, overlap)
        assert torch.equal(ours, expected)
        assert [(one["id"], one["isthing"], one["category_id"]) for one in segments] == rows


def test_semantic_map_sums_over_queries() -> None:
    logits, masks = torch.randn(3, 5), torch.randn(3, 6, 7)
    expected = sum(
        logits[q].softmax(-1)[:-1, None, None] * masks[q].sigmoid() for q in range(3)
    )  # what query q says of each class and pixel
    torch.testing.assert_close(semantic_inference(logits, masks), expected)


@pytest.mark.parametrize("resize_first", ["True", "False"])
def test_outputs_are_what_the_config_asks_for(resize_first: str) -> None:
    model = mask2former_model(
        BASE,
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "True",
        "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "False",
        "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", resize_first,
    ).eval()  # fmt: skip
    with torch.no_grad():
        results = model([{**discs(64, 90, 2, seed=1), "height": 50, "width": 71}, discs(60, 64, 0, seed=2)])
    assert [set(result) for result in results] == [{"sem_seg"}, {"sem_seg"}]
    assert [tuple(result["sem_seg"].shape) for result in results] == [(3, 50, 71), (3, 60, 64)]


# The model


def test_base_model_trains_images_with_and_without_instances() -> None:
    model = mask2former_model(BASE)
    inputs = [discs(64, 96, 3, seed=1), discs(96, 64, 0, seed=2)]
    losses = model(inputs)
    assert len(losses) == 3 * 4
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    empty = model([discs(64, 64, 0, seed=3)])
    torch.stack(list(empty.values())).sum().backward()
    for name, loss in empty.items():
        assert loss > 0 if name.startswith("loss_ce") else loss == 0, name


def test_polygons_and_run_lengths_train_alike() -> None:
    one = discs(64, 64, 0, seed=1)
    instances = one["instances"]
    polygons = PolygonMasks([[np.array([8.0, 8.0, 40.0, 8.0, 40.0, 30.0, 8.0, 30.0])]])
    del one["instances"]
    drawn = instances.__class__((64, 64), gt_boxes=polygons.get_bounding_boxes(), gt_classes=torch.tensor([1]))
    drawn.gt_masks = polygons
    encoded = mask_util.encode(np.asfortranarray(instance_masks(drawn)[0].numpy()))
    decoded = instances.__class__((64, 64), gt_classes=torch.tensor([1]))
    decoded.gt_masks = instances.gt_masks.__class__(torch.as_tensor(mask_util.decode(encoded)).bool()[None])
    model = mask2former_model(BASE)
    found = []
    for annotation in (drawn, decoded):
        torch.manual_seed(0)
        found.append(model([{**one, "instances": annotation}])["loss_mask"])
    assert found[0] > 0 and torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    "key,value",
    [
        ("MODEL.MASK_FORMER.PRE_NORM", "True"),
        ("MODEL.MASK_FORMER.DEC_LAYERS", "0"),
        ("MODEL.MASK_FORMER.OVERSAMPLE_RATIO", "0.5"),
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "StandardTransformerDecoder"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3']"),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", "['res4', 'res5']"),
    ],
)
def test_values_that_do_not_fit_are_refused(key: str, value: str) -> None:
    with pytest.raises(UserError, match=key.rsplit(".", 1)[1]):
        mask2former_model(BASE, key, value)


def test_panoptic_results_need_a_data_set_that_knows_things() -> None:
    panoptic = ("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True", "DATASETS.TRAIN", "()", "DATASETS.TEST", "()")
    with pytest.raises(UserError, match="PANOPTIC_ON"):
        mask2former_model(BASE, *panoptic)


def test_projections_between_decoders_appear_where_widths_differ() -> None:
    model = mask2former_model(BASE, "MODEL.MASK_FORMER.HIDDEN_DIM", "64", "MODEL.MASK_FORMER.NHEADS", "4")
    assert isinstance(model, MaskFormer)
    projections = model.sem_seg_head.predictor.input_proj
    assert [tuple(one.weight.shape) for one in projections] == [(64, 32, 1, 1)] * 3
    assert torch.isfinite(torch.stack(list(model([discs(64, 64, 1, seed=1)]).values()))).all()


def test_published_yaml_loads(tmp_path: Path) -> None:
    """The keys of the published instance recipe, with those that its own model does not read either."""
    path = tmp_path / "published.yaml"
    path.write_text(
        """
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  BACKBONE: {FREEZE_AT: 0, NAME: "build_resnet_backbone"}
  RESNETS:
    {DEPTH: 50, STEM_TYPE: "basic", STEM_OUT_CHANNELS: 64, STRIDE_IN_1X1: False, RES5_MULTI_GRID: [1, 1, 1],
     OUT_FEATURES: ["res2", "res3", "res4", "res5"]}
  SEM_SEG_HEAD:
    {NAME: "MaskFormerHead", IGNORE_VALUE: 255, NUM_CLASSES: 80, LOSS_WEIGHT: 1.0, CONVS_DIM: 256, MASK_DIM: 256, NORM: "GN",
     PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder", IN_FEATURES: ["res2", "res3", "res4", "res5"], COMMON_STRIDE: 4,
     DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: ["res3", "res4", "res5"], TRANSFORMER_ENC_LAYERS: 6,
     DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS: 4, DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: 8}
  MASK_FORMER:
    {TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder", TRANSFORMER_IN_FEATURE: "multi_scale_pixel_decoder",
     DEEP_SUPERVISION: True, NO_OBJECT_WEIGHT: 0.1, CLASS_WEIGHT: 2.0, MASK_WEIGHT: 5.0, DICE_WEIGHT: 5.0,
     HIDDEN_DIM: 256, NUM_OBJECT_QUERIES: 100, NHEADS: 8, DROPOUT: 0.0, DIM_FEEDFORWARD: 2048, ENC_LAYERS: 0,
     PRE_NORM: False, ENFORCE_INPUT_PROJ: False, SIZE_DIVISIBILITY: 32, DEC_LAYERS: 10, TRAIN_NUM_POINTS: 12544,
     OVERSAMPLE_RATIO: 3.0, IMPORTANCE_SAMPLE_RATIO: 0.75,
     TEST: {SEMANTIC_ON: False, INSTANCE_ON: True, PANOPTIC_ON: False, OVERLAP_THRESHOLD: 0.8,
            OBJECT_MASK_THRESHOLD: 0.8}}
"""
    )
    loaded = load_config(str(path)).cfg.MODEL.MASK_FORMER
    ours = load_config(str(Path(__file__).parents[3] / "configs" / BASE)).cfg.MODEL.MASK_FORMER
    assert loaded == ours
