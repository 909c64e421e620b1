"""Hashes in the names of published files."""

import hashlib
from pathlib import Path

import pytest
import torch

from adet_iuq.checkpoint.files import DamagedCheckpointError, read_checkpoint
from adet_iuq.checkpoint.hashes import hash_problem

CONTENT = b"weights"
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
OTHER = "0" * 8


def problem(folder: Path, name: str) -> str | None:
    path = folder / name
    path.write_bytes(CONTENT)
    return hash_problem(path)


@pytest.mark.parametrize(
    "name",
    [
        f"resnet50-{SHA256[:8]}.pth", f"tf_efficientnet_lite0-{SHA256}.pth", f"solo_r50_1x_coco_20200130-{SHA256[:8]}.pth",
        "run-20240131.pth", f"model-{OTHER}-old.pth", "model_0000499.pth", "deit_tiny-a1111.pth", "plain.pth",
    ],
)  # fmt: skip
def test_a_file_that_is_what_its_name_says_or_says_nothing(tmp_path: Path, name: str) -> None:
    assert problem(tmp_path, name) is None


@pytest.mark.parametrize(
    "name",
    [
        f"resnet50-{OTHER}.pth",
        f"a-{SHA256[:7]}g-{OTHER}.pkl",
        f"x-{SHA256[:-1]}{'0' if SHA256[-1] != '0' else '1'}.pth",
    ],
)
def test_a_file_that_is_not(tmp_path: Path, name: str) -> None:
    found = problem(tmp_path, name)
    assert found is not None and "sha256 does not start with" in found


def test_the_model_zoo_is_only_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for digits in (SHA256[:6], MD5[:6]):
        assert problem(tmp_path, f"model_final_{digits}.pkl") is None and not caplog.records
    assert problem(tmp_path, "model_final_000000.pkl") is None
    assert "starts with the 000000 in its name" in caplog.text


def test_a_checkpoint_of_another_hash_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save({"weight": torch.ones(1)}, path)
    right = path.rename(tmp_path / f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    assert torch.equal(read_checkpoint(str(right))["model"]["weight"], torch.ones(1))
    wrong = right.rename(tmp_path / f"resnet18-{OTHER}.pth")
    with pytest.raises(DamagedCheckpointError, match=f"does not start with {OTHER}.*rename the file"):
        read_checkpoint(str(wrong))
