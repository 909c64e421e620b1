"""Eq. 6 and 8 with a toy segmenter: who gets a gradient, and that a perfectly equivariant network has no loss."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from adet_iuq.iuq import (
    CropFlip,
    EquivarianceLoss,
    IUQCriterion,
    Queries,
    Retriever,
    Scene,
    keyed_generator,
    masks_at_cells,
)
from helpers.paired_views import SIZE, STRIDE, gradients_of, paired, transforms_of

MakeScene = Callable[..., Scene]


def _perfect_scene(transforms: list[CropFlip], offset: float = 4) -> Scene:
    """A perfect and perfectly equivariant network, three instances an image.

    Channel k of a cell is +20 if its supervised pixel is in instance k, else -20; query k picks channel k.
    """
    generator = torch.Generator().manual_seed(0)
    originals = [torch.rand(3, *SIZE, generator=generator) > 0.5 for _ in transforms]
    masks = originals + [g.masks(mask) for g, mask in zip(transforms, originals, strict=True)]
    grids = [masks_at_cells(mask, STRIDE, offset, (8, 12)) for mask in masks]
    count = len(masks)
    queries = Queries(
        torch.eye(3).repeat(count, 1), torch.arange(count).repeat_interleave(3), torch.arange(3).repeat(count)
    )
    return Scene(
        queries=queries,
        features=40.0 * torch.stack(grids).float() - 20.0,
        stride=STRIDE,
        offset=offset,
        masks=masks,
        image_ids=torch.arange(len(transforms)).repeat(2),
        image_sizes=[SIZE] * len(transforms) + [(g.h, g.w) for g in transforms],
    )


def test_query_equivariance_gradient(make_scene: MakeScene, segmenter: Retriever) -> None:
    scene = paired(make_scene, [2, 1, 3])
    loss, _ = EquivarianceLoss()(segmenter, scene, transforms_of(3))
    features, queries = gradients_of(scene, loss)
    assert (features[:3] > 0).all() and (features[3:] == 0).all()
    assert (queries[:3] == 0).all() and (queries[3:] > 0).all()


def test_feature_equivariance_gradient(make_scene: MakeScene, segmenter: Retriever) -> None:
    scene = paired(make_scene, [2, 1, 3])
    loss, _ = EquivarianceLoss(target="feature")(segmenter, scene, transforms_of(3))
    (features,) = torch.autograd.grad(loss, scene.features)
    assert (features.abs().sum(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("target", ["query", "feature"])
@pytest.mark.parametrize("offset", [4, 6])
def test_a_perfectly_equivariant_network_has_no_equivariance_loss(
    segmenter: Retriever, target: str, offset: float
) -> None:
    criterion = EquivarianceLoss(target=target)
    flips = 0
    for seed in range(10):
        generator = keyed_generator(seed, "g")
        transforms = [CropFlip.sample(generator, SIZE, stride=STRIDE, offset=offset) for _ in range(2)]
        scene = _perfect_scene(transforms, offset)
        loss, _ = criterion(segmenter, scene, transforms)
        assert criterion.weight * loss < 1e-6
        wrong = [replace(g, x0=g.x0 - STRIDE if g.x0 else STRIDE) for g in transforms]
        loss, _ = criterion(segmenter, scene, wrong)
        assert criterion.weight * loss > 0.1
        flips += sum(g.flip for g in transforms)
    assert 0 < flips < 20


def test_feature_loss_is_the_mean_square_over_valid_cells(segmenter: Retriever) -> None:
    transforms = [CropFlip(8, 0, 61, 40), CropFlip(0, 16, 70, 41)]
    scene = _perfect_scene(transforms)
    scene.features[2:] += 0.5
    criterion = IUQCriterion(equi=EquivarianceLoss(target="feature", weight=2.0))
    losses, _ = criterion(segmenter, scene, transforms, num_originals=2, iteration=0)
    assert losses["loss_equi"].item() == pytest.approx(2.0 * 0.25, rel=1e-5)


@pytest.mark.parametrize("firing", [0, 1])
def test_fire_rate_counts_queries_that_fire_on_a_valid_cell(segmenter: Retriever, firing: int) -> None:
    """One of the view's three queries fires, or none."""
    scene = _perfect_scene([CropFlip.identity(SIZE)])
    scene.features[:, 1:] = -20.0
    scene.features[:, 0] = 20.0 if firing else -20.0
    _, stats = EquivarianceLoss()(segmenter, scene, [CropFlip.identity(SIZE)])
    assert stats["equi_fire_rate"].item() == pytest.approx(firing / 3)


def test_unknown_target() -> None:
    with pytest.raises(ValueError, match=r"equivariance target 'both'.*query, feature, augmentation"):
        EquivarianceLoss(target="both")
