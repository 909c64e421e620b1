import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from adet_iuq.checkpoint import Checkpointer
from adet_iuq.engine.loop.hooks import BestCheckpointHook


def run(folder: Path, values: list[float], start_iter: int = 0) -> nn.Linear:
    """Evaluates to these values in turn; the model's weight is the number of the evaluation."""
    model = nn.Linear(1, 1, bias=False)
    hook = BestCheckpointHook(1, Checkpointer(model, str(folder)), "segm/AP", ("val",))
    with EventStorage(start_iter) as storage:
        hook.trainer = SimpleNamespace(storage=storage, start_iter=start_iter, iter=start_iter, max_iter=100)
        hook.before_train()
        for number, value in enumerate(values):
            storage.iter = hook.trainer.iter = start_iter + number
            nn.init.constant_(model.weight, start_iter + number)
            storage.put_scalar("segm/AP", value, smoothing_hint=False)
            hook.after_step()
    return model


def best(folder: Path) -> tuple[float, float]:
    """Metric and weight of what was kept."""
    weights = torch.load(folder / "model_best.pth")
    assert set(weights) == {"model", "iteration"}
    return json.loads((folder / "model_best.json").read_text())["value"], weights["model"]["weight"].item()


def test_the_best_evaluation_is_kept(tmp_path: Path) -> None:
    run(tmp_path, [1.0, 5.0, 3.0])
    assert best(tmp_path) == (5.0, 1.0)
    assert not (tmp_path / "last_checkpoint").exists()


def test_not_a_number_never_is_the_best(tmp_path: Path) -> None:
    run(tmp_path, [math.nan, 2.0, math.nan, math.inf])
    assert best(tmp_path) == (2.0, 1.0)


@pytest.mark.parametrize(("value", "kept"), [(4.0, 5.0), (6.0, 6.0)])
def test_a_resumed_run_competes_with_the_earlier_best(tmp_path: Path, value: float, kept: float) -> None:
    run(tmp_path, [5.0])
    run(tmp_path, [value], start_iter=10)
    assert best(tmp_path)[0] == kept


def test_a_metric_whose_weights_are_lost_does_not_count(tmp_path: Path) -> None:
    run(tmp_path, [5.0])
    (tmp_path / "model_best.pth").unlink()
    run(tmp_path, [4.0], start_iter=10)
    assert best(tmp_path) == (4.0, 10.0)


def test_a_new_run_does_not(tmp_path: Path) -> None:
    run(tmp_path, [5.0])
    run(tmp_path, [1.0])
    assert best(tmp_path)[0] == 1.0
