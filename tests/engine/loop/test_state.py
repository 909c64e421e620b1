"""What a checkpoint of a training holds, and what becomes of it in a trainer."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adet_iuq.engine import Trainer, setup
from adet_iuq.engine.loop.state import preserved_random_state, random_state, set_random_state
from adet_iuq.errors import UserError
from helpers.toy_segmenter import toy_args, train

NO_TEST: dict[str, Any] = {"DATASETS__TEST": "()"}


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    """The format of the files, as of revision 13d1029: other tools look into them."""
    train(toy_args(tmp_path, SOLVER__MAX_ITER=2, **NO_TEST))
    content = torch.load(tmp_path / "model_final.pth")
    assert content.keys() == {"model", "trainer", "iteration"}
    assert "classifier.weight" in content["model"]
    of_the_loop = {"iteration", "hooks", "optimizer", "grad_scaler", "data_seed", "history"}
    assert content["trainer"].keys() == of_the_loop | {"segmenter", "random_states", "iuq"}
    assert content["iteration"] == content["trainer"]["iteration"] == 1
    assert len(content["trainer"]["random_states"]) == 1


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


def test_a_run_may_go_on_where_another_precision_is_chosen(tmp_path: Path) -> None:
    """bfloat16 has no gradient scaler, float16 has one that starts from its own first scale."""
    train(toy_args(tmp_path, SOLVER__MAX_ITER=2, **NO_TEST))
    trainer = Trainer(setup(toy_args(tmp_path, SOLVER__MAX_ITER=3, **NO_TEST)))
    trainer._trainer.grad_scaler = torch.amp.GradScaler("cpu")
    trainer.resume_or_load(resume=True)
    assert trainer.iter == 1 and trainer._trainer.grad_scaler.get_scale() == 2.0**16
