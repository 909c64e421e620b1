"""The strength of the inter-scene term in the log of every segmenter, and that measuring it changes nothing."""

from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor

from adet_iuq.modeling import IUQMetaArch, TrainingPass
from helpers.grid_checks import AT_ONCE, grid_options, quieten
from helpers.scenes import SMALL_MASK2FORMER, discs, small_model

RECIPES = {
    "CondInst": ("CondInst/R50_1x_iuq.yaml", ()),
    "SOLOv2": ("SOLOv2/R50_1x_iuq.yaml", grid_options("SOLOV2")),
    "SOTR": ("SOTR/R50_iuq.yaml", grid_options("SOTR")),
    "Mask2Former": ("Mask2Former/R50_50ep_iuq.yaml", tuple(SMALL_MASK2FORMER)),
    "Mask2Former, all layers": (
        "Mask2Former/R50_50ep_iuq.yaml",
        (*SMALL_MASK2FORMER, "MODEL.IUQ.MASK_FORMER.QUERY_LAYERS", "all"),
    ),
}
EVERY_STEP = ("GUARD.GRADIENT_RATIO_PERIOD", "1")
Scalars = dict[str, float]


def build(name: str, *overrides: str) -> IUQMetaArch:
    recipe, small = RECIPES[name]
    model: IUQMetaArch = small_model(recipe, *small, *AT_ONCE, *overrides)
    if name in ("SOLOv2", "SOTR"):  # random weights would saturate every sigmoid
        quieten(model)
    return model


def step(model: IUQMetaArch, iteration: int = 0, count: int = 3) -> tuple[dict[str, Tensor], Scalars]:
    torch.manual_seed(0)
    model.set_iteration(iteration)
    inputs = [discs(96, 128, count, seed=1), discs(128, 96, count, seed=2)]
    with EventStorage(iteration) as storage:
        losses: dict[str, Tensor] = model(inputs)
    return losses, {name: value for name, (value, _) in storage.latest().items()}


@pytest.mark.parametrize("name", RECIPES)
def test_losses_and_gradients_are_bit_equal_with_it(name: str) -> None:
    runs = []
    for overrides in ((), EVERY_STEP):
        model = build(name, *overrides)
        losses, logged = step(model)
        torch.stack(list(losses.values())).sum().backward()
        runs.append((losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, logged))
    (losses, gradients, without), (same_losses, same_gradients, logged) = runs
    assert losses.keys() == same_losses.keys() and gradients.keys() == same_gradients.keys()
    assert all(torch.equal(losses[key], same_losses[key]) for key in losses)
    assert all(torch.equal(gradients[key], same_gradients[key]) for key in gradients)
    assert logged.keys() - without.keys() == {"iuq/gradient_ratio", "iuq/gradient_cosine"}
    assert logged["iuq/gradient_ratio"] > 0 and -1.0001 <= logged["iuq/gradient_cosine"] <= 1.0001


@pytest.mark.parametrize("name", RECIPES)
def test_the_ratio_is_that_of_the_weighted_term_and_the_base_mask_loss(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the gradients of both losses on the common source, taken one by one by hand."""
    model, seen = build(name, *EVERY_STEP), []
    original = model.training_pass

    def watched(inputs: list[dict[str, Any]]) -> TrainingPass:
        seen.append(original(inputs))
        return seen[-1]

    monkeypatch.setattr(model, "training_pass", watched)
    losses, logged = step(model)
    (done,) = seen
    sources = done.query_sources or [done.embeddings]
    mask = sum(losses[key] for key in ("loss_mask", "loss_ins", "loss_dice") if key in losses)
    assert isinstance(mask, Tensor)
    norms = []
    for loss in (losses["loss_inter"], mask):
        parts = torch.autograd.grad(loss, sources, retain_graph=True, allow_unused=True)
        norms.append(sum(float(part.square().sum()) for part in parts if part is not None) ** 0.5)
    assert min(norms) > 0
    assert logged["iuq/gradient_ratio"] == pytest.approx(norms[0] / norms[1], rel=1e-4)
    # All of the term's gradient passes through the sources: cut there, no parameter gets any.
    (embedded,) = torch.autograd.grad(losses["loss_inter"], [done.embeddings], retain_graph=True)
    assert float(embedded.norm()) == pytest.approx(norms[0], rel=1e-4)


def test_only_every_so_many_iterations() -> None:
    model = build("CondInst", "GUARD.GRADIENT_RATIO_PERIOD", "4")
    logged = ["iuq/gradient_ratio" in step(model, iteration)[1] for iteration in range(6)]
    assert logged == [True, False, False, False, True, False]


def test_writers_take_no_median_over_it() -> None:
    """Twenty values may be the whole training. The firing rates of every step are smoothed as all scalars are."""
    model = build("CondInst", *EVERY_STEP)
    with EventStorage(0) as storage:
        model([discs(96, 128, 3, seed=1), discs(128, 96, 3, seed=2)])
        hints = storage.smoothing_hints()
    assert not hints["iuq/gradient_ratio"] and not hints["iuq/gradient_cosine"] and hints["iuq/fire_rate"]


def test_zero_before_the_start_and_nothing_without_queries_or_term() -> None:
    model = build("CondInst", *EVERY_STEP, "MODEL.IUQ.INTER.START_ITER", "5")
    assert step(model)[1]["iuq/gradient_ratio"] == 0
    assert "iuq/gradient_ratio" not in step(model, count=0)[1]
    without = build("CondInst", *EVERY_STEP, "MODEL.IUQ.INTER.ENABLED", "False")
    assert "iuq/gradient_ratio" not in step(without)[1]


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("CondInst", "SOLOv2")), "Mask2Former"],
)
def test_under_autocast(name: str) -> None:
    model = build(name, *EVERY_STEP)
    plain = step(model)[1]["iuq/gradient_ratio"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = step(build(name, *EVERY_STEP))[1]["iuq/gradient_ratio"]
    assert mixed == pytest.approx(plain, rel=0.5) and mixed > 0
