"""Which checkpoint to resume from is one decision, whatever the ranks see of the disk. Also the processes' script."""

import os
import unittest.mock
import warnings
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

from adet_iuq.checkpoint import Checkpointer
from adet_iuq.errors import UserError
from helpers.gloo import main, run_ranks


def resume(rank: int, ranks: int, folder: Path) -> list[str]:
    """What each rank does if one rank only, first rank 0, then rank 1, sees a checkpoint."""
    done = []
    for owner in range(ranks):
        own = folder / f"owner{owner}" / str(rank)
        (own / "output").mkdir(parents=True)
        os.chdir(own)  # the same path leads to another folder on each machine
        checkpointer = Checkpointer(nn.Linear(1, 1), "output", save_to_disk=rank == owner)
        checkpointer.write("model_0000001", {"model": checkpointer.model.state_dict()})
        try:
            done.append("started anew" if checkpointer.load_last() is None else "resumed")
        except UserError as error:
            done.append(str(error))
    return [*done, *reads_of_a_shared_checkpoint(folder / "shared")]


def reads_of_a_shared_checkpoint(folder: Path) -> list[str]:
    """The files that this rank reads to resume when all see the last checkpoint, which is damaged."""
    weights = {"model": nn.Linear(1, 1).state_dict()}
    checkpointer = Checkpointer(nn.Linear(1, 1), str(folder))
    for number in range(3):
        checkpointer.write(f"model_{number:07d}", weights)
    comm.synchronize()
    if comm.is_main_process():
        (folder / "model_0000002.pth").write_bytes(b"half")
    comm.synchronize()
    reads, read = [], torch.load

    def counted(path: str, **options: Any) -> Any:
        reads.append(Path(path).name)
        return read(path, **options)

    with unittest.mock.patch("torch.load", counted):
        found = checkpointer.load_last()
    assert found is not None and found.path.name == "model_0000001.pth"
    assert torch.equal(checkpointer.model.state_dict()["weight"], found.content["model"]["weight"])
    return reads


def test_all_ranks_decide_alike(tmp_path: Path) -> None:
    (*first, spoiled, sound), (*second, own) = run_ranks(__file__, 2, tmp_path)
    assert first == second
    # The main process has the one that it found sound; the others read that one and no other.
    assert (spoiled, sound, own) == ("model_0000002.pth", "model_0000001.pth", "model_0000001.pth")
    assert "is not there for rank 1" in first[0] and "OUTPUT_DIR must be the same folder" in first[0]
    assert first[1] == "started anew"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    main(resume)
