"""The base segmenter: which query learns which instance, and where masks lie."""

from typing import Any

import pytest
import torch

from adet_iuq.iuq import CropFlip, Queries, Scene, warp_features
from adet_iuq.modeling.layers import instance_masks, paste_masks, strided_masks
from helpers.scenes import discs


def rectangles(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """(K, 64, 64) bool masks of boxes x0, y0, x1, y1."""
    masks = torch.zeros(len(boxes), 64, 64, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_each_instance_gets_the_cell_under_its_centroid_and_the_smallest_goes_first(base: Any) -> None:
    masks = rectangles((0, 0, 30, 30), (40, 20, 60, 40), (8, 8, 14, 14))
    instances, cells = base.match(masks, columns=4)  # of 16 pixels
    assert dict(zip(instances.tolist(), cells.tolist(), strict=True)) == {2: 0, 1: 1 * 4 + 3}


def test_a_batch_gives_one_query_an_instance_with_its_label(base: Any) -> None:
    inputs = [discs(64, 96, 3, seed=1), discs(96, 64, 2, seed=2)]
    done = base.training_pass(inputs)
    pairs = list(zip(done.image_index.tolist(), done.target_index.tolist(), strict=True))
    assert 3 < len(pairs) == len(set(pairs)) <= 5
    assert done.features.shape == (2, 32, 24, 24) and done.embeddings.shape == (len(pairs), 33)
    assert set(done.losses) == {"loss_cls", "loss_mask"} and done.losses["loss_mask"] <= base.mask_loss_ceiling


def test_sampled_masks_are_drawn_where_they_were(base: Any) -> None:
    masks = rectangles((8, 8, 32, 28), (20, 30, 60, 58))
    drawn = paste_masks(strided_masks(masks, 4, (16, 16)), base.pixel_stride, (64, 64), (64, 64))
    overlap = (drawn & masks).flatten(1).sum(1) / (drawn | masks).flatten(1).sum(1)
    assert (overlap > 0.8).all()


@pytest.mark.parametrize("g", [CropFlip(8, 12, 45, 40, flip=True), CropFlip(16, 4, 44, 52)])
def test_masks_move_with_the_map(model: Any, g: CropFlip) -> None:
    """Stride, offset and mask loss fit each other: a map that holds the masks, cropped and flipped, has no loss."""
    masks = instance_masks(discs(64, 64, 4, seed=5)["instances"])
    maps = (20.0 * strided_masks(masks, 4, (16, 16)) - 10)[None]
    geometry = {"stride": model.pixel_stride, "offset": model.pixel_offset}
    warped, valid = warp_features(maps, [g], [(64, 64)], **geometry)
    view = g.masks(masks)
    seen = view.flatten(1).sum(1) > 100
    everywhere = torch.full((4, 1), -100.0)  # a distance takes nothing away
    embeddings, location = torch.cat([torch.eye(4), everywhere], dim=1), {"location": torch.zeros(4, 2)}
    queries = Queries(embeddings, torch.zeros(4, dtype=torch.long), torch.arange(4), location).select(seen)
    scene = Scene(queries, warped, **geometry, masks=[view], image_ids=torch.zeros(1), image_sizes=[(g.h, g.w)])
    assert seen.sum() >= 2
    assert model.mask_loss(model.retrieve_map(queries, warped), scene, valid) < 1e-3
    wrong, _ = warp_features(maps, [g], [(64, 64)], stride=4, offset=0.0 if g.flip else -8.0)
    shifted = wrong if g.flip else warped.roll(1, 3)
    assert model.mask_loss(model.retrieve_map(queries, shifted), scene, valid) > 0.02


def test_results_have_masks_at_output_size_and_their_boxes(base: Any) -> None:
    inputs = {**discs(64, 96, 3, seed=1), "height": 100, "width": 150}
    found = base.eval()([inputs])[0]["instances"]
    assert found.image_size == (100, 150) and found.pred_masks.shape[1:] == (100, 150)
    assert 0 < len(found) <= base.max_detections
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.pred_classes.min() >= 0 and found.pred_classes.max() < 3
    for mask, (x0, y0, x1, y1) in zip(found.pred_masks, found.pred_boxes.tensor.int().tolist(), strict=True):
        assert mask.sum() == mask[y0:y1, x0:x1].sum()
