"""No slower than a straightforward implementation; five times faster where results become masks."""

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from adet_iuq.config import load_config
from helpers.scenes import discs
from projects.SOLQ import add_config
from projects.SOLQ.tests.slow_twins import TwinSOLQ, grid_sample_attention

ATTENTION = importlib.import_module("adet_iuq.modeling.layers.deformable_attention")


def model_and_twin() -> list[Any]:
    """Published widths, fewer layers, the same weights."""
    config = str(Path(__file__).parents[1] / "configs" / "R50_50ep.yaml")
    options = ["MODEL.DEVICE", "cpu", "MODEL.SOLQ.ENC_LAYERS", "2", "MODEL.SOLQ.DEC_LAYERS", "2"]
    options += ["MODEL.SOLQ.CATEGORY_IDS", "False", "MODEL.SOLQ.DROPOUT", "0.0"]
    cfg = load_config(config, options, add_config).cfg
    torch.manual_seed(0)
    model = build_model(cfg)
    if "TwinSOLQ" not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(TwinSOLQ)
    cfg.MODEL.META_ARCHITECTURE = "TwinSOLQ"
    twin = build_model(cfg)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for one in (model, twin):  # an untrained head says the same of every query
            one.vector_embed[0].layers[-1].weight.copy_(torch.randn(256, 1024, generator=torch.manual_seed(1)))
    return [model, twin]


def seconds(runs: list[Callable[[], object]], rounds: int) -> list[float]:
    """The least of several CPU times of each, taken in turn: what else the machine does only adds to them."""
    times = [[_cpu_time(run) for run in runs] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def _cpu_time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def step(model: Any, inputs: list[dict[str, Any]]) -> dict[str, float]:
    model.zero_grad()
    losses = model(inputs)
    torch.stack(list(losses.values())).sum().backward()
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.slow
def test_training_and_inference_are_no_slower_than_the_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin = model_and_twin()
    inputs = [discs(256, 320, 6, seed=1), discs(224, 256, 6, seed=2)]
    for one in inputs:
        one["instances"].gt_classes += 10
    fast = ATTENTION.deformable_attention

    def straightforward(run: Callable[[], Any]) -> Any:
        monkeypatch.setattr(ATTENTION, "deformable_attention", grid_sample_attention)
        result = run()
        monkeypatch.setattr(ATTENTION, "deformable_attention", fast)
        return result

    @torch.no_grad()
    def infer(one: Any) -> Any:
        return one.eval()(inputs)

    training: list[Callable[[], Any]] = [
        lambda: step(model, inputs),
        lambda: straightforward(lambda: step(twin, inputs)),
    ]
    ours_result, theirs_result = (run() for run in training)
    ours, theirs = seconds(training, rounds=3)
    evaluation: list[Callable[[], Any]] = [lambda: infer(model), lambda: straightforward(lambda: infer(twin))]
    found, expected = (run() for run in evaluation)
    ours_eval, theirs_eval = seconds(evaluation, rounds=2)
    assert ours_result == pytest.approx(theirs_result, rel=1e-4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one["instances"].scores, other["instances"].scores, rtol=1e-4, atol=1e-6)
        assert (one["instances"].pred_masks != other["instances"].pred_masks).float().mean() < 1e-2
    print(f"training {ours:.2f} s, twin {theirs:.2f} s; inference {ours_eval:.2f} s, twin {theirs_eval:.2f} s")
    assert ours <= theirs and ours_eval <= theirs_eval


@pytest.mark.slow
def test_results_become_masks_five_times_faster() -> None:
    model, twin = model_and_twin()
    generator = torch.Generator().manual_seed(0)
    logits, vectors = torch.randn(300, 80, generator=generator), torch.randn(300, 256, generator=generator)
    centres, sides = torch.rand(2, 300, 2, generator=generator)
    boxes = torch.cat([centres, 0.03 + 0.5 * sides**2], dim=1)
    given = (logits, boxes, vectors, (480, 640))
    runs: list[Callable[[], Any]] = [lambda: model.results(*given), lambda: twin.results(*given)]
    found, expected = (run().pred_masks for run in runs)
    assert (found != expected).float().mean() < 1e-5
    ours, theirs = seconds(runs, rounds=4)
    print(f"post-processing {ours:.3f} s, twin {theirs:.3f} s")
    assert 5 * ours < theirs
