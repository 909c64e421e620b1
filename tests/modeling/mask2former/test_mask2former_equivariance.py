"""The equivariance term of MaskFormerIUQ: its mask loss against the base loss, and where views, cells and masks lie."""

from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks
from torch import Tensor

from adet_iuq.iuq import CropFlip, Scene
from adet_iuq.modeling.mask2former import mask_losses
from adet_iuq.modeling.segmenter import content_size
from adet_iuq.modeling.views import transform_inputs
from helpers.mask2former_iuq import IUQ, train_step, two_images
from helpers.scenes import mask2former_model


@pytest.fixture(scope="module")
def inputs() -> list[dict[str, Any]]:
    return two_images()


def test_equi_loss_of_the_view_itself_is_the_base_loss(inputs: list[dict[str, Any]]) -> None:
    """<q, I> on the queries' own map, all cells valid, the same points: 5 BCE + 5 dice, averaged over the queries."""
    model = mask2former_model(*IUQ)
    scene, _ = model.forward_scene(inputs)
    counts = torch.bincount(scene.queries.image_index, minlength=2).tolist()
    logits = model.retrieve_map(scene.queries, scene.features)
    frame = (scene.features.shape[2] * 4, scene.features.shape[3] * 4)
    targets = model.targets(inputs)
    valid = torch.ones(2, *logits.shape[1:], dtype=torch.bool)
    model.criterion.source = lambda rows, count, device: torch.rand(
        rows, count, 2, generator=torch.Generator().manual_seed(0)
    )
    masks = [one.masks for one in targets]
    sampled, wanted, _ = model.criterion.sample(logits, scene.queries.target_index, counts, masks, frame)
    bce, dice = mask_losses.cross_entropy(sampled, wanted), mask_losses.dice(sampled, wanted)
    torch.testing.assert_close(model.mask_loss(logits, scene, valid), 5 * bce.mean() + 5 * dice.mean())


def test_equi_loss_of_the_view_itself_is_what_the_base_trains_with(inputs: list[dict[str, Any]]) -> None:
    """All masks share their points, as the base draws those of all its predictions together."""
    model = mask2former_model(*IUQ)
    model.criterion.importance_ratio = 0.0
    model.criterion.source = lambda rows, count, device: torch.rand(
        1, count, 2, generator=torch.Generator().manual_seed(0)
    ).expand(rows, -1, -1)
    scene, losses = model.forward_scene(inputs)
    logits = model.retrieve_map(scene.queries, scene.features)
    valid = torch.ones(2, *logits.shape[1:], dtype=torch.bool)
    assert len(scene.queries) == 7  # as many as targets, which the base divides by
    torch.testing.assert_close(model.mask_loss(logits, scene, valid), losses["loss_mask"] + losses["loss_dice"])


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


def test_scene_offset_is_the_centre_of_a_cell(inputs: list[dict[str, Any]]) -> None:
    """Masks sampled bilinearly where cells lie and maps sampled there say the same of a ramp."""
    model = mask2former_model(*IUQ)
    scene: Scene = model.forward_scene(inputs)[0]
    ramp = (torch.arange(scene.features.shape[3]) * scene.stride + scene.offset).expand(1, 1, 4, -1)
    frame = scene.features.shape[3] * scene.stride
    points = torch.tensor([[[(20 + 0.5) / frame, 0.5], [(33 + 0.5) / frame, 0.5]]])  # centres of pixels 20 and 33
    read = torch.nn.functional.grid_sample(ramp.contiguous(), 2 * points[:, :, None] - 1, align_corners=False)
    torch.testing.assert_close(read.flatten(), torch.tensor([20.0, 33.0]))
