"""MaskFormerIUQ: what it adds in training, who gets a gradient, and that evaluation is Mask2Former's."""

import copy
from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.iuq import CropFlip, Queries, Scene
from adet_iuq.modeling.mask2former import MaskFormer, MaskFormerIUQ, mask_losses
from adet_iuq.modeling.mask2former.matcher import Matches
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction
from adet_iuq.modeling.segmenter import content_size
from adet_iuq.modeling.views import transform_inputs
from helpers.scenes import SMALL_MASK2FORMER, discs, mask2former_model, small_cfg

BASE = "Mask2Former/R50_50ep_paper.yaml"
IUQ = ("Mask2Former/R50_50ep_iuq.yaml", "MODEL.IUQ.INTER.START_ITER", "0", "MODEL.IUQ.INTER.RAMP_ITERS", "0")
PANOPTIC = ("Mask2Former/R50_panoptic_50ep_iuq.yaml", *IUQ[1:])


def train_step(model: Any, inputs: list[dict[str, Any]], times: int = 1) -> tuple[dict[str, Tensor], dict[str, float]]:
    with EventStorage() as storage:
        for _ in range(times):
            losses = model(inputs)
        return losses, {name: value for name, (value, _) in storage.latest().items()}


@pytest.fixture(scope="module")
def inputs() -> list[dict[str, Any]]:
    return [discs(64, 96, 4, seed=1), discs(96, 64, 3, seed=2)]


def grey_padded(one: dict[str, Any], size: int) -> dict[str, Any]:
    """What the jitter's mapper makes of a small image."""
    height, width = one["image"].shape[1:]
    image = torch.full((3, size, size), 128, dtype=torch.uint8)
    image[:, :height, :width] = one["image"]
    masks = torch.zeros(len(one["instances"]), size, size, dtype=torch.bool)
    masks[:, :height, :width] = one["instances"].gt_masks.tensor
    instances = one["instances"].__class__((size, size), gt_masks=BitMasks(masks))
    instances.gt_classes = one["instances"].gt_classes
    return {**one, "image": image, "instances": instances, "content_size": (height, width)}


def test_losses_are_the_base_losses_and_two_more(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    losses, stats = train_step(model, inputs)
    base = {f"loss_{term}{suffix}" for term in ("ce", "mask", "dice") for suffix in ("", "_0", "_1", "_2")}
    assert set(losses) == base | {"loss_inter", "loss_equi"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_inter"] > 0 and losses["loss_equi"] > 0
    assert stats["iuq/memory_fill"] > 0 and stats["iuq/num_valid_pairs"] > 0


def test_base_losses_on_both_views_are_the_published_ones(inputs: list[dict[str, Any]]) -> None:
    model, base = mask2former_model(*IUQ), mask2former_model(BASE, seed=1)
    base.load_state_dict(model.state_dict())
    transforms = [model._sample_transform(one) for one in inputs]
    views = inputs + [transform_inputs(i, g) for i, g in zip(inputs, transforms, strict=True)]
    torch.manual_seed(0)
    expected = base(views)
    torch.manual_seed(0)
    losses, _ = train_step(model, inputs)
    for name, loss in expected.items():
        assert torch.equal(losses[name], loss), name


def test_inter_loss_reaches_the_queries_only(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    losses, _ = train_step(model, inputs)
    losses["loss_inter"].backward()
    gradients = {name: p.grad.abs().sum().item() for name, p in model.named_parameters() if p.grad is not None}
    assert gradients["sem_seg_head.predictor.mask_embed.layers.2.weight"] > 0
    assert gradients["sem_seg_head.predictor.query_feat.weight"] > 0
    assert gradients["backbone.res5.0.conv1.weight"] > 0
    # The queries are made from the other maps, not from the mask features.
    assert gradients["sem_seg_head.pixel_decoder.mask_features.weight"] == 0
    assert gradients.get("sem_seg_head.predictor.class_embed.weight", 0) == 0


def test_equi_loss_reaches_queries_and_features(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    losses, _ = train_step(model, inputs)
    losses["loss_equi"].backward()
    gradients = {name: p.grad.abs().sum().item() for name, p in model.named_parameters() if p.grad is not None}
    assert gradients["sem_seg_head.predictor.mask_embed.layers.2.weight"] > 0
    assert gradients["sem_seg_head.pixel_decoder.mask_features.weight"] > 0


def test_equi_loss_of_the_view_itself_is_the_base_loss(inputs: list[dict[str, Any]]) -> None:
    """<q, I> on the queries' own map, all cells valid, the same points: 5 BCE + 5 dice, averaged over the queries."""
    model = mask2former_model(*IUQ)
    scene, _ = model.forward_scene(inputs)
    matches = Matches(
        scene.queries.image_index, torch.zeros(0), scene.queries.target_index,
        torch.bincount(scene.queries.image_index, minlength=2).tolist(),
    )  # fmt: skip
    logits = model.retrieve_map(scene.queries, scene.features)
    frame = (scene.features.shape[2] * 4, scene.features.shape[3] * 4)
    targets = model.targets(inputs)
    valid = torch.ones(2, *logits.shape[1:], dtype=torch.bool)
    model.criterion.source = lambda rows, count, device: torch.rand(
        rows, count, 2, generator=torch.Generator().manual_seed(0)
    )
    bce, dice = model.criterion.mask_losses(logits, matches, targets, frame)
    torch.testing.assert_close(model.mask_loss(logits, scene, valid), 5 * bce.mean() + 5 * dice.mean())


def test_equi_loss_takes_queries_in_any_order_and_leaves_invalid_cells_out(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    model.criterion.source = lambda rows, count, device: torch.rand(
        1, count, 2, generator=torch.Generator().manual_seed(0)
    ).expand(rows, -1, -1)
    scene, _ = model.forward_scene(inputs)
    logits = model.retrieve_map(scene.queries, scene.features).detach()
    valid = torch.zeros(2, *logits.shape[1:], dtype=torch.bool)
    valid[:, 2:14, 3:13] = True
    expected = model.mask_loss(logits, scene, valid)
    noise = torch.where(valid[scene.queries.image_index], logits, torch.randn_like(logits) * 30)
    torch.testing.assert_close(model.mask_loss(noise, scene, valid), expected)
    order = torch.randperm(len(logits))
    scene.queries = scene.queries.select(order)
    torch.testing.assert_close(model.mask_loss(logits[order], scene, valid), expected)
    assert model.mask_loss(logits, scene, torch.zeros_like(valid)) == 0


def test_focal_loss_and_coefficients_are_options(inputs: list[dict[str, Any]]) -> None:
    def losses_with(*overrides: str) -> Tensor:
        model = mask2former_model(*IUQ, *overrides)
        model.criterion.source = lambda rows, count, device: torch.rand(
            rows, count, 2, generator=torch.Generator().manual_seed(0)
        )
        scene, _ = model.forward_scene(inputs)
        logits = model.retrieve_map(scene.queries, scene.features)
        return model.mask_loss(logits, scene, torch.ones(2, *logits.shape[1:], dtype=torch.bool)).detach()

    key = "MODEL.IUQ.MASK_FORMER."
    whole = losses_with()
    dice = losses_with(key + "EQUI_MASK_WEIGHT", "0")
    bce = losses_with(key + "EQUI_DICE_WEIGHT", "0")
    torch.testing.assert_close(dice + bce, whole)
    # Without exponent and with equal weights of both cases the focal loss is half the cross-entropy.
    plain = (key + "EQUI_MASK_LOSS", "focal", key + "EQUI_FOCAL_GAMMA", "0", key + "EQUI_FOCAL_ALPHA", "0.5")
    torch.testing.assert_close(losses_with(*plain, key + "EQUI_DICE_WEIGHT", "0"), bce / 2)


def matched(model: MaskFormerIUQ, inputs: list[dict[str, Any]]) -> tuple[list[Prediction], list[Matches], Tensor]:
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
    queries = Queries(*model._matched(predictions, matches, kept))
    match, last = matches[-1], predictions[-1]
    assert len(queries) == 7
    masks = last.masks(features)[match.image, match.query]
    torch.testing.assert_close(model.retrieve_map(queries, features), masks, rtol=1e-4, atol=1e-4)
    every = mask2former_model(*IUQ, "MODEL.IUQ.MASK_FORMER.QUERY_LAYERS", "all")
    embeddings, _, _ = every._matched(predictions, matches, kept)
    assert len(embeddings) == 4 * 7
    torch.testing.assert_close(embeddings[21:28], queries.embeddings)


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
    queries = Queries(*model._matched(predictions, matches, kept))
    match, row = matches[-1], 0
    for image, query, target in zip(match.image, match.query, match.target, strict=True):
        if kept[image][target]:
            assert torch.equal(queries.embeddings[row], predictions[-1].embeddings[image, query])
            assert torch.equal(
                scene.masks[image][queries.target_index[row]], inputs[image]["instances"].gt_masks.tensor[target]
            )
            row += 1
    assert row == len(queries)
    train_step(model, inputs)[0]["loss_equi"].backward()


def test_g_acts_on_the_content_and_not_on_the_grey_padding(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ)
    padded = [grey_padded(one, 128) for one in inputs]
    for one, bare in zip(padded, inputs, strict=True):
        g = model._sample_transform(one)
        assert g == model._sample_transform(bare)
        view = transform_inputs(one, g)
        assert torch.equal(view["image"], g.image(bare["image"]))
        assert content_size(view) == tuple(view["image"].shape[1:])
    scene, _ = model.forward_scene(padded)
    assert scene.image_sizes == [(64, 96), (96, 64)] and scene.features.shape[2:] == (32, 32)
    losses, _ = train_step(model, padded)
    assert all(torch.isfinite(loss) for loss in losses.values())
    # A crop at the content's right edge reads up to there, no cell of the padding.
    g = CropFlip(36, 24, 60, 40, flip=True)
    _, valid = g.features(scene.features[0], scene.image_sizes[0], stride=4, offset=model.pixel_offset)
    assert valid[:10, :15].all() and valid.sum() == 150
    beyond = CropFlip(40, 24, 60, 40, flip=True)
    _, valid = beyond.features(scene.features[0], scene.image_sizes[0], stride=4, offset=model.pixel_offset)
    assert valid[:10, 1:15].all() and valid.sum() == 140


def test_switched_off_is_the_base_model(inputs: list[dict[str, Any]]) -> None:
    model = mask2former_model(*IUQ, "MODEL.IUQ.EQUI.ENABLED", "False", "MODEL.IUQ.INTER.ENABLED", "False")
    base = mask2former_model(BASE, seed=1)
    base.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    expected = base(inputs)
    torch.manual_seed(0)
    losses, _ = train_step(model, inputs)
    assert list(losses) == list(expected)
    for name, loss in expected.items():
        assert torch.equal(losses[name], loss), name


@pytest.mark.parametrize("recipe", [("R50_50ep_iuq", "R50_50ep_paper"), ("R50_panoptic_50ep_iuq", "R50_panoptic_50ep")])
def test_evaluation_is_bit_equal_and_weights_load_strictly(
    inputs: list[dict[str, Any]], recipe: tuple[str, str]
) -> None:
    low = ("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.1", "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.1")
    model, base = (mask2former_model(f"Mask2Former/{name}.yaml", *low, seed=seed) for seed, name in enumerate(recipe))
    train_step(model, inputs)[0]["loss_equi"].backward()
    base.load_state_dict(model.state_dict(), strict=True)
    assert type(base) is MaskFormer and list(model.state_dict()) == list(base.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(model.eval()(inputs), base.eval()(inputs), strict=True):
            assert set(ours) == set(theirs)
            for field, value in ours["instances"].get_fields().items():
                other = theirs["instances"].get(field)
                value, other = getattr(value, "tensor", value), getattr(other, "tensor", other)
                assert len(value) > 0 and torch.equal(value, other), field
            if "panoptic_seg" in ours:
                assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
                assert ours["panoptic_seg"][1] == theirs["panoptic_seg"][1]
                assert torch.equal(ours["sem_seg"], theirs["sem_seg"])


def test_empty_batch_trains_every_parameter() -> None:
    model = mask2former_model(*IUQ)
    losses, _ = train_step(model, [discs(64, 64, 0, seed=1), discs(64, 96, 0, seed=2)])
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_inter"] == 0 and losses["loss_equi"] == 0 and losses["loss_mask"] == 0
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_same_seed_same_losses(inputs: list[dict[str, Any]]) -> None:
    runs: list[dict[str, Tensor]] = []
    for _ in range(2):
        model = mask2former_model(*IUQ, "MODEL.IUQ.INTER.MAX_QUERIES", "5", seed=3)
        runs.append(train_step(model, inputs, times=2)[0])
    for name in runs[0]:
        assert torch.equal(runs[0][name], runs[1][name]), name


def test_memory_state_round_trip(inputs: list[dict[str, Any]]) -> None:
    model, other = mask2former_model(*IUQ), mask2former_model(*IUQ)
    train_step(model, inputs)
    other.load_iuq_state(copy.deepcopy(model.iuq_state()))
    for name, value in model.iuq_state().items():
        assert torch.equal(value, other.iuq_state()[name]), name
    assert model.iuq_state()["image_ids"].max() == 2


def test_wrong_values_are_refused() -> None:
    for key, value in (("QUERY_LAYERS", "first"), ("EQUI_MASK_LOSS", "lovasz")):
        with pytest.raises(UserError, match=value):
            mask2former_model(*IUQ, f"MODEL.IUQ.MASK_FORMER.{key}", value)


def test_equi_focal_is_the_named_loss() -> None:
    x, t = torch.randn(2, 9), torch.rand(2, 9)
    p = x.sigmoid()
    expected = 0.25 * t * (1 - p) ** 2 * -p.log() + 0.75 * (1 - t) * p**2 * -(1 - p).log()
    torch.testing.assert_close(mask_losses.focal(x, t, 0.25, 2.0), expected.mean(1))


def test_scene_offset_is_the_centre_of_a_cell(inputs: list[dict[str, Any]]) -> None:
    """Masks sampled bilinearly where cells lie and maps sampled there say the same of a ramp."""
    model = mask2former_model(*IUQ)
    scene: Scene = model.forward_scene(inputs)[0]
    ramp = (torch.arange(scene.features.shape[3]) * scene.stride + scene.offset).expand(1, 1, 4, -1)
    frame = scene.features.shape[3] * scene.stride
    points = torch.tensor([[[(20 + 0.5) / frame, 0.5], [(33 + 0.5) / frame, 0.5]]])  # centres of pixels 20 and 33
    read = torch.nn.functional.grid_sample(ramp.contiguous(), 2 * points[:, :, None] - 1, align_corners=False)
    torch.testing.assert_close(read.flatten(), torch.tensor([20.0, 33.0]))


@pytest.mark.slow
def test_fifty_steps_in_bfloat16_stay_finite() -> None:
    inputs = [discs(32, 48, 2, seed=1), discs(32, 32, 1, seed=2)]
    model = mask2former_model(*IUQ, "MODEL.BACKBONE.FREEZE_AT", "0")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = last = 0.0
    for step in range(50):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses, _ = train_step(model, inputs)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        assert torch.isfinite(norm) and all(torch.isfinite(loss) for loss in losses.values()), step
        assert losses["loss_inter"].dtype == losses["loss_mask"].dtype == torch.float32
        optimizer.step()
        first, last = (float(total.detach()) if step == 0 else first), float(total.detach())
    assert last < first


def test_an_unknown_choice_of_layers_is_refused_without_a_config_too() -> None:
    arguments = MaskFormerIUQ.from_config(small_cfg(*IUQ, *SMALL_MASK2FORMER))
    with pytest.raises(ValueError, match="Unknown query_layers 'first'"):
        MaskFormerIUQ(**{**arguments, "query_layers": "first"})
