"""The two terms end to end with a toy segmenter: who gets a gradient, ramps, empty batches, seeds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from adet_iuq.iuq import (
    EquivarianceLoss,
    InstanceSampler,
    InterSceneLoss,
    IUQCriterion,
    PixelMemory,
    Pixels,
    Retriever,
    Scene,
)
from helpers.inter_twins import slow_loss
from helpers.paired_views import gradients_of, paired, transforms_of

MakeScene = Callable[..., Scene]


def _criterion(
    *,
    inter: dict[str, Any] | None = None,
    equi: dict[str, Any] | None = None,
    capacity: int = 1000,
    own_batch: bool = True,
) -> IUQCriterion:
    """Terms that are not named are off."""
    return IUQCriterion(
        memory=None if inter is None else PixelMemory(4, capacity=capacity),
        sampler=InstanceSampler(5),
        inter=None if inter is None else InterSceneLoss(**inter),
        equi=None if equi is None else EquivarianceLoss(**equi),
        own_batch=own_batch,
    )


def test_inter_gradient_reaches_all_queries_and_nothing_else(make_scene: MakeScene, segmenter: Retriever) -> None:
    scene = paired(make_scene, [2, 1, 3])
    losses, _ = _criterion(inter={})(segmenter, scene, transforms_of(3), num_originals=3, iteration=0)
    assert losses.keys() == {"loss_inter"}
    features, queries = gradients_of(scene, losses["loss_inter"])
    assert (features == 0).all() and (queries > 0).all()


def test_equi_alone_is_the_weighted_loss(make_scene: MakeScene, segmenter: Retriever) -> None:
    scene = paired(make_scene, [2, 1, 3])
    losses, stats = _criterion(equi={"weight": 2.0})(segmenter, scene, transforms_of(3), num_originals=3, iteration=0)
    loss, expected = EquivarianceLoss()(segmenter, scene, transforms_of(3))
    assert losses == {"loss_equi": 2.0 * loss} and stats == expected


def test_augmentation_and_disabled_terms_cost_nothing(make_scene: MakeScene, segmenter: Retriever) -> None:
    scene = paired(make_scene, [2, 1])
    criterion = _criterion(equi={"target": "augmentation"})
    assert criterion(segmenter, scene, transforms_of(2), num_originals=2, iteration=0) == ({}, {})
    assert criterion.memory is None
    assert _criterion(equi={})(segmenter, scene, None, num_originals=4, iteration=0) == ({}, {})


def test_without_its_own_batch_a_step_meets_the_pixels_of_earlier_ones(
    make_scene: MakeScene, segmenter: Retriever
) -> None:
    """The memory is the same in the end; the loss is that of a criterion whose second step has no pixel of its own."""
    first, second = (paired(make_scene, [2, 1, 3], seed=step) for step in range(2))
    second.image_ids += 10
    later = _criterion(inter={}, own_batch=False)
    losses, stats = later(segmenter, first, None, num_originals=3, iteration=0)
    assert losses["loss_inter"] == 0 and stats["num_valid_pairs"] == stats["memory_fill"] == 0
    losses["loss_inter"].backward()
    losses, stats = later(segmenter, second, None, num_originals=3, iteration=1)
    assert stats["num_valid_pairs"] == len(second.queries) * len(InstanceSampler(5)(first.views(slice(0, 3))))
    stored = InstanceSampler(5)(first.views(slice(0, 3)))
    logits = second.queries.embeddings @ stored.features.t()
    assert losses["loss_inter"].item() == pytest.approx(
        sum(slow_loss("focal", one).item() for one in logits.flatten()) / logits.numel(), rel=1e-5
    )
    features, queries = gradients_of(second, losses["loss_inter"])
    assert (features == 0).all() and (queries > 0).all()
    usual = _criterion(inter={})
    for step, scene in enumerate((first, second)):
        usual(segmenter, scene, None, num_originals=3, iteration=step)
    assert usual.memory is not None and later.memory is not None
    assert torch.equal(usual.memory.features, later.memory.features)


def test_inter_equals_the_paper_word_for_word(make_scene: MakeScene, segmenter: Retriever) -> None:
    """Queries of all views against the sampled pixels of the originals of other images, over two steps."""
    criterion = _criterion(inter={"weight": 3.0})
    stored: list[Pixels] = []
    for step in range(2):
        scene = paired(make_scene, [2, 1, 3], seed=step)
        scene.image_ids[:] = torch.tensor([7, 8, 9 + step]).repeat(2)
        stored.append(InstanceSampler(5)(scene.views(slice(0, 3))))
        losses, stats = criterion(segmenter, scene, None, num_originals=3, iteration=step)
    total, pairs, fired = 0.0, 0, 0
    for n in range(len(scene.queries)):
        for pixels in stored:
            for p in range(len(pixels)):
                if pixels.image_ids[p] != scene.image_ids[scene.queries.image_index[n]]:
                    logit = scene.queries.embeddings[n] @ pixels.features[p]
                    total += slow_loss("focal", logit).item()
                    fired += bool(logit > 0)
                    pairs += 1
    assert losses["loss_inter"].item() == pytest.approx(3 * total / pairs, rel=1e-5)
    assert stats["num_valid_pairs"] == pairs
    assert stats["fire_rate"].item() == pytest.approx(fired / pairs)
    assert stats["memory_fill"].item() == pytest.approx(sum(map(len, stored)) / 1000)
    assert 0 < stats["own_fire_rate"] < 1


def test_normalizer_image_counts_each_image_once(make_scene: MakeScene, segmenter: Retriever) -> None:
    """Word for word: of the mean over foreign images, an image stored v times has a v-th of the sum over its pixels."""
    criterion = _criterion(inter={"normalizer": "image"})
    stored: list[Pixels] = []
    for step in range(3):
        scene = paired(make_scene, [2, 1, 3], seed=step)
        scene.image_ids[:] = torch.tensor([7, 8, 9 + step]).repeat(2)  # 7 and 8 are stored three times
        stored.append(InstanceSampler(5)(scene.views(slice(0, 3))))
        losses, _ = criterion(segmenter, scene, None, num_originals=3, iteration=step)
    total, visits = 0.0, {7: 3, 8: 3, 9: 1, 10: 1, 11: 1}
    for n in range(len(scene.queries)):
        own = int(scene.image_ids[scene.queries.image_index[n]])
        for pixels in stored:
            for feature, image in zip(pixels.features, pixels.image_ids.tolist(), strict=True):
                if image != own:
                    loss = slow_loss("focal", scene.queries.embeddings[n] @ feature).item()
                    total += loss / visits[image] / (len(visits) - 1)
    assert losses["loss_inter"].item() == pytest.approx(total / len(scene.queries), rel=1e-5)


def test_normalizer_image_does_not_see_how_often_an_image_was_stored(
    make_scene: MakeScene, segmenter: Retriever
) -> None:
    values = []
    for times in (1, 5):
        criterion = _criterion(inter={"normalizer": "image"})
        for _ in range(times):
            losses, _ = criterion(segmenter, make_scene([2, 1, 3]), None, num_originals=3, iteration=0)
        values.append(losses["loss_inter"].item())
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_a_batch_of_one_image_has_nothing_foreign(make_scene: MakeScene, segmenter: Retriever) -> None:
    scene = paired(make_scene, [3])
    losses, stats = _criterion(inter={}, capacity=0)(segmenter, scene, None, num_originals=1, iteration=0)
    assert losses["loss_inter"] == 0 and stats["num_valid_pairs"] == 0
    features, queries = gradients_of(scene, losses["loss_inter"])
    assert (features == 0).all() and (queries == 0).all()


def test_memory_fills_before_the_start_and_the_weight_ramps(make_scene: MakeScene, segmenter: Retriever) -> None:
    criterion = _criterion(inter={"start_iter": 2, "ramp_iters": 2}, capacity=0)
    values = []
    for iteration in range(5):
        scene = make_scene([2, 1])
        losses, stats = criterion(segmenter, scene, None, num_originals=2, iteration=iteration)
        values.append(losses["loss_inter"].item())
        assert losses["loss_inter"].requires_grad and stats["memory_fill"] == 1
    assert values[:2] == [0.0, 0.0]
    assert values[2] == pytest.approx(values[3] / 2) and values[3] == values[4] > 0


def test_batch_without_an_instance(make_scene: MakeScene, segmenter: Retriever) -> None:
    for target in ("query", "feature"):
        scene = paired(make_scene, [0, 0])
        criterion = _criterion(inter={}, equi={"target": target})
        losses, stats = criterion(segmenter, scene, transforms_of(2), num_originals=2, iteration=0)
        assert losses["loss_inter"] == 0 and (target == "feature" or losses["loss_equi"] == 0)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert scene.features.grad is not None and scene.features.grad.isfinite().all()
        assert scene.queries.embeddings.grad is not None
        assert all(value.isfinite() for value in stats.values())


def test_one_view_without_queries(make_scene: MakeScene, segmenter: Retriever) -> None:
    """All instances of the view were cut away, the original has some."""
    scene = make_scene([2, 0])
    losses, _ = _criterion(inter={}, equi={})(segmenter, scene, transforms_of(1), num_originals=1, iteration=0)
    assert losses["loss_equi"] == 0
    losses["loss_equi"].backward()


def test_not_finite_features_do_not_spoil_a_zero(make_scene: MakeScene, segmenter: Retriever) -> None:
    scene = make_scene([2, 1])
    with torch.no_grad():
        scene.features[1] = float("nan")
    losses, _ = _criterion(inter={})(segmenter, scene, None, num_originals=2, iteration=0)
    assert losses["loss_inter"].isfinite()


@pytest.mark.parametrize("target", ["query", "feature"])
def test_autocast_changes_nothing(make_scene: MakeScene, segmenter: Retriever, target: str) -> None:
    results = []
    for enabled in (False, True):
        scene = paired(make_scene, [2, 1], dtype=torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            criterion = _criterion(inter={}, equi={"target": target})
            losses, _ = criterion(segmenter, scene, transforms_of(2), num_originals=2, iteration=0)
        gradients = torch.autograd.grad(sum(losses.values()), scene.features)  # type: ignore[arg-type]
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert gradients[0].dtype == torch.bfloat16
        results.append([*losses.values(), *gradients])
    for plain, mixed in zip(*results, strict=True):
        assert torch.equal(plain, mixed)


def test_everything_random_comes_from_the_seeds(make_scene: MakeScene, segmenter: Retriever) -> None:
    values = []
    for global_seed, shift in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(global_seed)
        scene = paired(make_scene, [2, 3])
        assert scene.sample_seeds is not None
        scene.sample_seeds = [seed + shift for seed in scene.sample_seeds]
        criterion = _criterion(inter={"max_queries": 3}, capacity=8)
        values.append(criterion(segmenter, scene, None, num_originals=2, iteration=0)[0]["loss_inter"].item())
    assert values[0] == values[1] != values[2]


def test_no_model_state_but_the_memory() -> None:
    criterion = _criterion(inter={}, equi={})
    assert criterion.state_dict() == {} and list(criterion.parameters()) == []


def test_wrong_calls(make_scene: MakeScene, segmenter: Retriever) -> None:
    with pytest.raises(ValueError, match="2 transforms for 2 views"):
        _criterion(equi={})(segmenter, make_scene([1, 1]), transforms_of(2), num_originals=1, iteration=0)


def test_a_memory_that_is_only_the_batch_needs_the_batch() -> None:
    with pytest.raises(ValueError, match="OWN_BATCH False"):
        _criterion(inter={}, capacity=0, own_batch=False)


def test_an_inter_scene_loss_without_a_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a memory"):
        IUQCriterion(inter=InterSceneLoss(weight=2.0))
