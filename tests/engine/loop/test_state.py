"""What a checkpoint of a training holds, and what becomes of it in a trainer."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adet_iuq.engine import Trainer, setup
from adet_iuq.engine.loop.state import preserved_random_state, random_state, set_random_state
from adet_iuq.errors import UserError
from helpers.golden import REPOSITORY
from helpers.toy_segmenter import metrics, toy_args, train

# The toy's checkpoint and metrics of revision 13d1029: train(toy_args(output, DATASETS__TEST="()")).
OLD = REPOSITORY / "tests/golden/resume"
NO_TEST: dict[str, Any] = {"DATASETS__TEST": "()"}


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    """The format of the files: those of before must stay readable, and tools look into them."""
    train(toy_args(tmp_path, SOLVER__MAX_ITER=2, **NO_TEST))
    new, old = (torch.load(path) for path in (tmp_path / "model_final.pth", OLD / "13d1029_model_0000004.pth"))
    assert new.keys() == old.keys() == {"model", "trainer", "iteration"}
    assert new["model"].keys() == old["model"].keys()
    assert new["trainer"].keys() == old["trainer"].keys()
    assert new["iteration"] == new["trainer"]["iteration"] == 1
    assert len(new["trainer"]["random_states"]) == 1


def test_a_checkpoint_of_the_old_code_resumes_with_the_old_losses(tmp_path: Path) -> None:
    shutil.copy(OLD / "13d1029_model_0000004.pth", tmp_path / "model_0000004.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    train(toy_args(tmp_path, resume=True, **NO_TEST))
    old = {line["iteration"]: line for line in map(json.loads, (OLD / "13d1029_metrics.json").read_text().splitlines())}
    new = metrics(tmp_path)
    # The line of iteration 4 comes from the history in the checkpoint.
    assert sorted(new) == list(range(4, 12))
    for iteration, line in new.items():
        for name in ("total_loss", "loss_cls", "loss_mask", "lr", "iuq/memory_fill"):
            assert float(line[name]) == pytest.approx(old[iteration][name], rel=1e-5), (iteration, name)


def test_resuming_reads_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(toy_args(tmp_path, SOLVER__MAX_ITER=2, **NO_TEST))
    reads: list[str] = []
    read = torch.load

    def counted(path: str, **options: Any) -> Any:
        reads.append(Path(path).name)
        return read(path, **options)

    monkeypatch.setattr(torch, "load", counted)
    Trainer(setup(toy_args(tmp_path, resume=True, **NO_TEST))).resume_or_load(resume=True)
    assert reads == ["model_final.pth"]


@pytest.mark.parametrize("lost", ["optimizer", "iuq", "data_seed", "random_states", "history"])
def test_a_state_that_lacks_something_is_named(tmp_path: Path, lost: str) -> None:
    train(toy_args(tmp_path, SOLVER__MAX_ITER=2, **NO_TEST))
    content = torch.load(tmp_path / "model_final.pth")
    del content["trainer"][lost]
    torch.save(content, tmp_path / "model_final.pth")
    with pytest.raises(UserError, match=f"has no '{lost}' in its trainer state"):
        train(toy_args(tmp_path, resume=True, **NO_TEST))


def test_random_states_are_restored() -> None:
    np.random.randn()  # leaves the second number of a pair waiting
    state = random_state()
    first = draws()
    assert draws() != first
    set_random_state(state)
    assert draws() == first


def test_what_is_drawn_inside_leaves_no_trace() -> None:
    state = random_state()
    expected = draws()
    set_random_state(state)
    with preserved_random_state():
        draws()
    assert draws() == expected
