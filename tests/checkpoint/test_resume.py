"""Which checkpoint serves when the last one is spoiled."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adet_iuq.checkpoint import resume
from adet_iuq.checkpoint.resume import read_checkpoint_to_resume
from adet_iuq.errors import UserError


def save(folder: Path, *numbers: int) -> None:
    for number in numbers:
        torch.save({"model": {"a": torch.ones(1)}}, folder / f"model_{number:07d}.pth")


def test_only_checkpoints_from_before_the_spoiled_one_serve(tmp_path: Path) -> None:
    """Those with higher numbers are left from an earlier run in the same folder."""
    save(tmp_path, 1, 3, 9)
    last = tmp_path / "model_0000005.pth"
    last.write_bytes(b"half")
    assert read_checkpoint_to_resume(last).path == tmp_path / "model_0000003.pth"
    (tmp_path / "model_0000003.pth").write_bytes(b"")
    assert read_checkpoint_to_resume(last).path == tmp_path / "model_0000001.pth"
    (tmp_path / "model_0000001.pth").unlink()
    with pytest.raises(UserError, match=r"model_0000005\.pth .*No earlier checkpoint .* \(1 tried\)"):
        read_checkpoint_to_resume(last)


def test_any_numbered_one_serves_for_the_final_one(tmp_path: Path) -> None:
    save(tmp_path, 1, 3)
    assert read_checkpoint_to_resume(tmp_path / "model_final.pth").path == tmp_path / "model_0000003.pth"


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is sound, and what it holds, is one reading; also of those that turn out to be spoiled."""
    save(tmp_path, 1, 3)
    (tmp_path / "model_0000003.pth").write_bytes(b"half")
    reads: list[str] = []
    read = resume.read_checkpoint

    def counted(path: str) -> dict[str, Any]:
        reads.append(Path(path).name)
        return read(path)

    monkeypatch.setattr(resume, "read_checkpoint", counted)
    found = read_checkpoint_to_resume(tmp_path / "model_final.pth")
    assert reads == ["model_final.pth", "model_0000003.pth", "model_0000001.pth"]
    assert torch.equal(found.content["model"]["a"], torch.ones(1))
