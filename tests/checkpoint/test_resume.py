"""Which checkpoint serves when the last one is spoiled."""

from pathlib import Path

import pytest
import torch

from adet_iuq.checkpoint import checkpoint_to_resume
from adet_iuq.errors import UserError


def save(folder: Path, *numbers: int) -> None:
    for number in numbers:
        torch.save({"model": {"a": torch.ones(1)}}, folder / f"model_{number:07d}.pth")


def test_only_checkpoints_from_before_the_spoiled_one_serve(tmp_path: Path) -> None:
    """Those with higher numbers are left from an earlier run in the same folder."""
    save(tmp_path, 1, 3, 9)
    last = tmp_path / "model_0000005.pth"
    last.write_bytes(b"half")
    assert checkpoint_to_resume(last) == tmp_path / "model_0000003.pth"
    (tmp_path / "model_0000003.pth").write_bytes(b"")
    assert checkpoint_to_resume(last) == tmp_path / "model_0000001.pth"
    (tmp_path / "model_0000001.pth").unlink()
    with pytest.raises(UserError, match=r"model_0000005\.pth .*No earlier checkpoint .* \(1 tried\)"):
        checkpoint_to_resume(last)


def test_any_numbered_one_serves_for_the_final_one(tmp_path: Path) -> None:
    save(tmp_path, 1, 3)
    assert checkpoint_to_resume(tmp_path / "model_final.pth") == tmp_path / "model_0000003.pth"
