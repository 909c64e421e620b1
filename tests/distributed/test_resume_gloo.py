"""Which checkpoint to resume from is one decision, whatever the ranks see of the disk. Also the processes' script."""

import os
import warnings
from pathlib import Path

import torch
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
        checkpointer.save("model_0000001")
        try:
            checkpointer.resume_or_load("", resume=True)
            done.append("started anew")
        except UserError as error:
            done.append(str(error))
    return done


def test_all_ranks_decide_alike(tmp_path: Path) -> None:
    first, second = run_ranks(__file__, 2, tmp_path)
    assert first == second
    assert "is not there for rank 1" in first[0] and "OUTPUT_DIR must be the same folder" in first[0]
    assert first[1] == "started anew"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    main(resume)
