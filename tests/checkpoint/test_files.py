import os
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adet_iuq.checkpoint.files import read_checkpoint
from adet_iuq.errors import UserError
from adet_iuq.files import replace_file


class Bomb:
    """Runs a command when it is unpickled by an ordinary unpickler."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_no_code_of_a_file_runs(suffix: str, tmp_path: Path) -> None:
    path, target = tmp_path / f"evil.{suffix}", tmp_path / "ran"
    content = {"model": {"w": np.zeros(2)}, "__author__": "me", "extra": Bomb(target)}
    if suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match="evil"):
        read_checkpoint(str(path))
    assert not target.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_detectron2_zoo_pickles(protocol: int, tmp_path: Path) -> None:
    weights: dict[str, Any] = {
        "stem.w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "n": np.array(3),
        "s": np.float64(2.5),
    }
    content = {"model": weights, "__author__": "Detectron2", "matching_heuristics": True, "tags": {1, 2}}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(content, protocol))
    read = read_checkpoint(str(tmp_path / "zoo.pkl"))
    assert read["matching_heuristics"] is True
    assert all(np.array_equal(read["model"][name], weights[name]) for name in weights)


def test_pickles_of_numpy_1_and_of_python_2(tmp_path: Path) -> None:
    content = pickle.dumps({"blobs": {"conv1_w": np.ones(2, np.float32), "conv1_w_momentum": np.ones(2)}}, 2)
    assert b"numpy._core.multiarray" in content
    (tmp_path / "old.pkl").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    read = read_checkpoint(str(tmp_path / "old.pkl"))
    assert read["__author__"] == "Caffe2" and read["matching_heuristics"] is True
    assert list(read["model"]) == ["conv1_w"]


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_state_dicts_are_found(key: str | None, tmp_path: Path) -> None:
    weights = {"a": torch.ones(2)}
    torch.save(weights if key is None else {key: weights, "epoch": 3}, tmp_path / "w.pth")
    assert torch.equal(read_checkpoint(str(tmp_path / "w.pth"))["model"]["a"], torch.ones(2))


def test_numpy_numbers_in_a_torch_file_are_harmless(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "best": np.float64(0.5), "array": np.ones(3)}, tmp_path / "w.pth")
    assert read_checkpoint(str(tmp_path / "w.pth"))["best"] == 0.5


@pytest.mark.parametrize("name", ["cut.pth", "cut.pkl"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_file_that_is_cut_off(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("pkl"):
        path.write_bytes(pickle.dumps({"model": {"a": np.ones(1000)}, "__author__": "me"}))
    else:
        torch.save({"model": {"a": torch.ones(1000)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=name):
        read_checkpoint(str(path))


@pytest.mark.parametrize("name", ["cut.pth", "cut.pkl"])
def test_wherever_a_file_of_the_old_formats_is_cut_off(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("pkl"):
        path.write_bytes(pickle.dumps({"model": {"a": np.ones(2)}, "__author__": "me"}))
    else:
        torch.save({"model": {"a": torch.ones(2)}}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=name):
            read_checkpoint(str(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(str(tmp_path / "gone.pth"))


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, lambda file: file.write(b"old"))

    def fail(file: Any) -> None:
        file.write(b"half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_new_file_is_on_the_disk_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done: list[str] = []

    def recorded(name: str) -> Any:
        call = getattr(os, name)

        def call_and_record(*arguments: Any) -> None:
            done.append(name)
            call(*arguments)

        return call_and_record

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name))
    with path.open("rb") as reader:
        replace_file(path, lambda file: file.write(b"new"))
        assert reader.read() == b"old"  # not even for a moment is it half of each
    assert path.read_bytes() == b"new"
    assert done == ["fsync", "replace", "fsync"]  # content, name, folder


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    replace_file(path, lambda file: torch.save({"a": torch.ones(1)}, file))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"model\.pth cannot be written"):
            replace_file(path, lambda file: torch.save({"a": torch.ones(100_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pth"]
