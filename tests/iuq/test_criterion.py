"""The two terms end to end with a toy segmenter: who gets a gradient, equivariance, caps, ramps, empty batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import (
    CropFlip,
    EquiSettings,
    InstanceSampler,
    InterSettings,
    IUQCriterion,
    PixelMemory,
    Pixels,
    Queries,
    Scene,
    Segmenter,
    build_inter_loss,
    keyed_generator,
    sample_masks,
)

MakeScene = Callable[..., Scene]
SIZE, STRIDE = (64, 96), 8


def _criterion(
    *, inter: dict[str, Any] | None = None, equi: dict[str, Any] | None = None, capacity: int = 1000, dim: int = 4
) -> IUQCriterion:
    """Terms that are not named are off."""
    return IUQCriterion(
        memory=PixelMemory(dim, capacity=capacity),
        sampler=InstanceSampler(5),
        inter=None if inter is None else InterSettings(**inter),
        equi=None if equi is None else EquiSettings(**equi),
    )


def _transforms(count: int, seed: int = 0) -> list[CropFlip]:
    return [CropFlip.sample(keyed_generator(seed, f"{b}"), SIZE, stride=STRIDE, offset=4) for b in range(count)]


def _paired(make_scene: MakeScene, instances: list[int], **options: Any) -> Scene:
    """Random views: the second half counts as the transforms of the first (same image ids)."""
    scene = make_scene(instances * 2, **options)
    count = len(instances)
    return replace(scene, image_ids=scene.image_ids[:count].repeat(2), sample_seeds=list(range(count)) * 2)


def _perfect_scene(transforms: list[CropFlip], offset: float = 4) -> Scene:
    """A perfect and perfectly equivariant network, three instances an image.

    Channel k of a cell is +20 if its supervised pixel is in instance k, else -20; query k picks channel k.
    """
    generator = torch.Generator().manual_seed(0)
    originals = [torch.rand(3, *SIZE, generator=generator) > 0.5 for _ in transforms]
    masks = originals + [g.masks(mask) for g, mask in zip(transforms, originals, strict=True)]
    grids = [sample_masks(mask, STRIDE, offset, (8, 12)) for mask in masks]
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


def _gradients(scene: Scene, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute gradient by image: of the features, and of the queries' embeddings."""
    features, embeddings = torch.autograd.grad(loss, [scene.features, scene.queries.embeddings])
    by_image = torch.zeros(len(scene)).index_add(0, scene.queries.image_index, embeddings.abs().sum(dim=1))
    return features.abs().sum(dim=(1, 2, 3)), by_image


def test_inter_gradient_reaches_all_queries_and_nothing_else(make_scene: MakeScene, segmenter: Segmenter) -> None:
    scene = _paired(make_scene, [2, 1, 3])
    losses, _ = _criterion(inter={})(segmenter, scene, _transforms(3), num_originals=3, iteration=0)
    assert losses.keys() == {"loss_inter"}
    features, queries = _gradients(scene, losses["loss_inter"])
    assert (features == 0).all() and (queries > 0).all()


def test_query_equivariance_gradient(make_scene: MakeScene, segmenter: Segmenter) -> None:
    scene = _paired(make_scene, [2, 1, 3])
    losses, _ = _criterion(equi={})(segmenter, scene, _transforms(3), num_originals=3, iteration=0)
    assert losses.keys() == {"loss_equi"}
    features, queries = _gradients(scene, losses["loss_equi"])
    assert (features[:3] > 0).all() and (features[3:] == 0).all()
    assert (queries[:3] == 0).all() and (queries[3:] > 0).all()


def test_feature_equivariance_gradient(make_scene: MakeScene, segmenter: Segmenter) -> None:
    scene = _paired(make_scene, [2, 1, 3])
    criterion = _criterion(equi={"target": "feature"})
    losses, _ = criterion(segmenter, scene, _transforms(3), num_originals=3, iteration=0)
    (features,) = torch.autograd.grad(losses["loss_equi"], scene.features)
    assert (features.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_augmentation_and_disabled_terms_cost_nothing(make_scene: MakeScene, segmenter: Segmenter) -> None:
    scene = _paired(make_scene, [2, 1])
    criterion = _criterion(equi={"target": "augmentation"})
    assert criterion(segmenter, scene, _transforms(2), num_originals=2, iteration=0) == ({}, {})
    assert criterion.memory is not None and len(criterion.memory) == 0
    assert _criterion(equi={})(segmenter, scene, None, num_originals=4, iteration=0) == ({}, {})


@pytest.mark.parametrize("target", ["query", "feature"])
@pytest.mark.parametrize("offset", [4, 6])
def test_a_perfectly_equivariant_network_has_no_equivariance_loss(
    segmenter: Segmenter, target: str, offset: float
) -> None:
    criterion = _criterion(equi={"target": target}, dim=3)
    flips = 0
    for seed in range(10):
        generator = keyed_generator(seed, "g")
        transforms = [CropFlip.sample(generator, SIZE, stride=STRIDE, offset=offset) for _ in range(2)]
        scene = _perfect_scene(transforms, offset)
        losses, _ = criterion(segmenter, scene, transforms, num_originals=2, iteration=0)
        assert losses["loss_equi"] < 1e-6
        wrong = [replace(g, x0=g.x0 - STRIDE if g.x0 else STRIDE) for g in transforms]
        losses, _ = criterion(segmenter, scene, wrong, num_originals=2, iteration=0)
        assert losses["loss_equi"] > 0.1
        flips += sum(g.flip for g in transforms)
    assert 0 < flips < 20


def test_feature_loss_is_the_mean_square_over_valid_cells(segmenter: Segmenter) -> None:
    transforms = [CropFlip(8, 0, 61, 40), CropFlip(0, 16, 70, 41)]
    scene = _perfect_scene(transforms)
    scene.features[2:] += 0.5
    criterion = _criterion(equi={"target": "feature", "weight": 2.0}, dim=3)
    losses, _ = criterion(segmenter, scene, transforms, num_originals=2, iteration=0)
    assert losses["loss_equi"].item() == pytest.approx(2.0 * 0.25, rel=1e-5)


def test_inter_equals_the_paper_word_for_word(make_scene: MakeScene, segmenter: Segmenter) -> None:
    """Queries of all views against the sampled pixels of the originals of other images, over two steps."""
    criterion = _criterion(inter={"weight": 3.0})
    stored: list[Pixels] = []
    for step in range(2):
        scene = _paired(make_scene, [2, 1, 3], seed=step)
        scene.image_ids[:] = torch.tensor([7, 8, 9 + step]).repeat(2)
        stored.append(InstanceSampler(5)(scene.views(slice(0, 3))))
        losses, stats = criterion(segmenter, scene, None, num_originals=3, iteration=step)
    total, pairs, fired = 0.0, 0, 0
    for n in range(len(scene.queries)):
        for pixels in stored:
            for p in range(len(pixels)):
                if pixels.image_ids[p] != scene.image_ids[scene.queries.image_index[n]]:
                    logit = scene.queries.embeddings[n] @ pixels.features[p]
                    total += build_inter_loss("focal")(logit).item()
                    fired += bool(logit > 0)
                    pairs += 1
    assert losses["loss_inter"].item() == pytest.approx(3 * total / pairs, rel=1e-5)
    assert stats["num_valid_pairs"] == pairs
    assert stats["fire_rate"].item() == pytest.approx(fired / pairs)
    assert stats["memory_fill"].item() == pytest.approx(sum(map(len, stored)) / 1000)
    assert 0 < stats["own_fire_rate"] < 1


def test_a_batch_of_one_image_has_nothing_foreign(make_scene: MakeScene, segmenter: Segmenter) -> None:
    scene = _paired(make_scene, [3])
    losses, stats = _criterion(inter={}, capacity=0)(segmenter, scene, None, num_originals=1, iteration=0)
    assert losses["loss_inter"] == 0 and stats["num_valid_pairs"] == 0
    features, queries = _gradients(scene, losses["loss_inter"])
    assert (features == 0).all() and (queries == 0).all()


def test_memory_fills_before_the_start_and_the_weight_ramps(make_scene: MakeScene, segmenter: Segmenter) -> None:
    criterion = _criterion(inter={"start_iter": 2, "ramp_iters": 2}, capacity=0)
    values = []
    for iteration in range(5):
        scene = make_scene([2, 1])
        losses, stats = criterion(segmenter, scene, None, num_originals=2, iteration=iteration)
        values.append(losses["loss_inter"].item())
        assert losses["loss_inter"].requires_grad and stats["memory_fill"] == 1
    assert values[:2] == [0.0, 0.0]
    assert values[2] == pytest.approx(values[3] / 2) and values[3] == values[4] > 0


def test_batch_without_an_instance(make_scene: MakeScene, segmenter: Segmenter) -> None:
    for target in ("query", "feature"):
        scene = _paired(make_scene, [0, 0])
        criterion = _criterion(inter={}, equi={"target": target})
        losses, stats = criterion(segmenter, scene, _transforms(2), num_originals=2, iteration=0)
        assert losses["loss_inter"] == 0 and (target == "feature" or losses["loss_equi"] == 0)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert scene.features.grad is not None and scene.features.grad.isfinite().all()
        assert scene.queries.embeddings.grad is not None
        assert all(value.isfinite() for value in stats.values())


def test_one_view_without_queries(make_scene: MakeScene, segmenter: Segmenter) -> None:
    """All instances of the view were cut away, the original has some."""
    scene = make_scene([2, 0])
    losses, _ = _criterion(inter={}, equi={})(segmenter, scene, _transforms(1), num_originals=1, iteration=0)
    assert losses["loss_equi"] == 0
    losses["loss_equi"].backward()


def test_not_finite_features_do_not_spoil_a_zero(make_scene: MakeScene, segmenter: Segmenter) -> None:
    scene = make_scene([2, 1])
    with torch.no_grad():
        scene.features[1] = float("nan")
    losses, _ = _criterion(inter={})(segmenter, scene, None, num_originals=2, iteration=0)
    assert losses["loss_inter"].isfinite()


@pytest.mark.parametrize("target", ["query", "feature"])
def test_autocast_changes_nothing(make_scene: MakeScene, segmenter: Segmenter, target: str) -> None:
    results = []
    for enabled in (False, True):
        scene = _paired(make_scene, [2, 1], dtype=torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            criterion = _criterion(inter={}, equi={"target": target})
            losses, _ = criterion(segmenter, scene, _transforms(2), num_originals=2, iteration=0)
        gradients = torch.autograd.grad(sum(losses.values()), scene.features)  # type: ignore[arg-type]
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert gradients[0].dtype == torch.bfloat16
        results.append([*losses.values(), *gradients])
    for plain, mixed in zip(*results, strict=True):
        assert torch.equal(plain, mixed)


def test_everything_random_comes_from_the_seeds(make_scene: MakeScene, segmenter: Segmenter) -> None:
    values = []
    for global_seed, shift in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(global_seed)
        scene = _paired(make_scene, [2, 3])
        assert scene.sample_seeds is not None
        scene.sample_seeds = [seed + shift for seed in scene.sample_seeds]
        criterion = _criterion(inter={"max_queries": 3}, capacity=8)
        values.append(criterion(segmenter, scene, None, num_originals=2, iteration=0)[0]["loss_inter"].item())
    assert values[0] == values[1] != values[2]


def test_no_model_state_but_the_memory() -> None:
    criterion = _criterion(inter={}, equi={})
    assert criterion.state_dict() == {} and list(criterion.parameters()) == []


def test_wrong_settings_and_calls(make_scene: MakeScene, segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match=r"INTER.LOSS is 'dice'"):
        InterSettings(loss="dice")
    with pytest.raises(ValueError, match=r"INTER.NORMALIZER is 'sum'"):
        InterSettings(normalizer="sum")
    with pytest.raises(ValueError, match=r"EQUI.TARGET is 'both'.*query, feature, augmentation"):
        EquiSettings(target="both")
    with pytest.raises(ValueError, match="needs a memory"):
        IUQCriterion(inter=InterSettings())
    with pytest.raises(ValueError, match="2 transforms for 2 views"):
        _criterion(equi={})(segmenter, make_scene([1, 1]), _transforms(2), num_originals=1, iteration=0)
