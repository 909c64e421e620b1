import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adet_iuq.checkpoint import Checkpointer
from adet_iuq.errors import UserError
from helpers.toy_segmenter import BareSegmenter


class Model(BareSegmenter):
    """Parts named as in the project's models."""

    optional_checkpoint_keys = ("head.counter",)

    def __init__(self, classes: int = 3, hidden: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = nn.ModuleDict({"res2": nn.Linear(2, hidden), "res3": nn.Linear(hidden, hidden)})
        self.head = nn.Linear(hidden, hidden)
        self.head.register_buffer("counter", torch.zeros(1))
        self.cls_logits = nn.Linear(hidden, classes)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def save(model: nn.Module, path: Path, **more: Any) -> str:
    torch.save({"model": model.state_dict(), **more}, path)
    return str(path)


def test_saving_and_resuming(tmp_path: Path) -> None:
    first, second = Model(), Model()
    content = {"model": first.state_dict(), "trainer": {"value": 7}, "iteration": 5}
    Checkpointer(first, str(tmp_path)).write("model_5", content)
    assert (tmp_path / "last_checkpoint").read_text() == "model_5.pth"
    assert list(tmp_path.glob(".*")) == []

    found = Checkpointer(second, str(tmp_path)).load_last()
    assert found is not None and found.path == tmp_path / "model_5.pth"
    assert (found.content["trainer"], found.content["iteration"]) == ({"value": 7}, 5)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())


def test_without_a_run_to_resume_nothing_is_loaded(tmp_path: Path) -> None:
    model = Model()
    before = weights(model)
    save(Model(), tmp_path / "model_final.pth")
    assert Checkpointer(model, str(tmp_path)).load_last() is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_goes_on_with_weights_of_its_own_classes_only(tmp_path: Path) -> None:
    other = Model(classes=80)
    Checkpointer(other, str(tmp_path)).write("model_5", {"model": other.state_dict()})
    with pytest.raises(UserError, match=r"model_5\.pth does not fit.*number of classes: cls_logits\.weight"):
        Checkpointer(Model(classes=3), str(tmp_path), class_counts=[3]).load_last()


def test_a_process_that_does_not_save_writes_nothing(tmp_path: Path) -> None:
    checkpointer = Checkpointer(Model(), str(tmp_path), save_to_disk=False)
    checkpointer.write("model_5", {"model": {}})
    checkpointer.save("model_best")
    assert list(tmp_path.iterdir()) == []


def test_other_class_counts_are_listed_and_keep_their_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(Model(classes=80), tmp_path / "coco.pth")
    model = Model(classes=3)
    before = weights(model)
    with caplog.at_level(logging.WARNING, logger="adet_iuq.checkpoint.checkpointer"):
        Checkpointer(model, class_counts=[3]).load(path)
    assert "cls_logits.weight, cls_logits.bias" in caplog.text
    after = model.state_dict()
    assert torch.equal(after["cls_logits.weight"], before["cls_logits.weight"])
    assert not torch.equal(after["head.weight"], before["head.weight"])
    with pytest.raises(UserError, match=r"number of classes: cls_logits\.weight"):
        Checkpointer(model, class_counts=[3]).load(path, strict=True)


def test_another_architecture_changes_nothing(tmp_path: Path) -> None:
    model = Model()
    before = weights(model)
    path = save(Model(hidden=8), tmp_path / "wide.pth")
    for strict in (False, True):
        with pytest.raises(UserError, match=r"wide\.pth does not fit"):
            Checkpointer(model, class_counts=[3]).load(path, strict=strict)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_optional_tensors(tmp_path: Path) -> None:
    content = weights(Model())
    del content["head.counter"]
    torch.save({"model": content}, tmp_path / "w.pth")
    Checkpointer(Model()).load(str(tmp_path / "w.pth"), strict=True)
    del content["head.bias"]
    torch.save({"model": content}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"missing in it: head\.bias"):
        Checkpointer(Model()).load(str(tmp_path / "w.pth"), strict=True)


def test_names_under_data_parallel_and_bare_state_dicts(tmp_path: Path) -> None:
    source, model = Model(), Model()
    torch.save({f"module.{name}": value for name, value in source.state_dict().items()}, tmp_path / "w.pth")
    Checkpointer(model).load(str(tmp_path / "w.pth"), strict=True)
    assert torch.equal(model.head.weight, source.head.weight)


def test_backbone_pickle_of_the_model_zoo(tmp_path: Path) -> None:
    arrays = {
        "res2.weight": np.full((4, 2), 2, np.float32),
        "res2.bias": np.full(4, 3, np.float32),
        "res3.weight": np.full((4, 4), 4, np.float32),
        "res3.bias": np.full(4, 5, np.float32),
        "fc1000.weight": np.zeros((1000, 4), np.float32),
        "fc1000.bias": np.zeros(1000, np.float32),
    }
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    model = Model()
    Checkpointer(model).load(str(tmp_path / "R-50.pkl"))
    assert torch.equal(model.state_dict()["backbone.bottom_up.res3.bias"], torch.full((4,), 5.0))


def test_a_download_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(Model())

    def offline(path: str) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr("adet_iuq.checkpoint.checkpointer.PathManager.get_local_path", offline)
    with pytest.raises(UserError, match="Base-scratch") as error:
        checkpointer.load("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    assert "Name or service not known" in str(error.value)


def test_weights_alone_leave_last_checkpoint(tmp_path: Path) -> None:
    checkpointer = Checkpointer(Model(), str(tmp_path))
    checkpointer.save("model_best")
    assert set(torch.load(tmp_path / "model_best.pth")) == {"model"}
    assert not (tmp_path / "last_checkpoint").exists()


@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, strict: bool) -> None:
    model = Model()
    with torch.no_grad():
        model.head.weight[0, 1], model.head.weight[2, 2] = float("nan"), float("inf")
    path = save(model, tmp_path / "diverged.pth")
    with pytest.raises(
        UserError, match=r"diverged\.pth holds values that are not finite.* head\.weight \(2 of 16 values\)"
    ):
        Checkpointer(Model()).load(path, strict=strict)
