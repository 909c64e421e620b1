"""Two processes leave one report, written by the main one. Also the processes' script."""

import json
import os
from pathlib import Path

import pytest

from helpers.gloo import main, run_ranks
from helpers.toy_segmenter import toy_args, train


def worker(rank: int, ranks: int, folder: Path, output: str) -> list[str]:
    """Trains; the processes that it started meanwhile, as its log names them."""
    train(toy_args(output, num_gpus=2, REPORT__ENABLED=True, SOLVER__MAX_ITER=4))
    log = Path(output) / ("log.txt" if rank == 0 else f"log.txt.rank{rank}")
    return [line for line in log.read_text().splitlines() if "eport" in line and "hook" in line]


@pytest.mark.slow
def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    lines = run_ranks(__file__, 2, tmp_path, str(tmp_path / "two"))
    assert len(lines[0]) == 1 and "Report: " in lines[0][0] and lines[1] == []
    assert json.loads((tmp_path / "two" / "report.json").read_text())["environment"]["device"] == "2 x cpu"
    assert "4 of 4 iterations" in (tmp_path / "two" / "report.html").read_text()
    assert (tmp_path / "two" / "label_grid.jpg").is_file() and os.path.isfile(tmp_path / "two" / "results.json")


if __name__ == "__main__":
    main(worker)
