"""SOLQ on two gloo processes, one of them at times without any instance. Also the processes' script."""

from pathlib import Path

import pytest

from helpers.gloo import main, run_ranks
from helpers.rank_training import Steps, deviations, train_on_rank
from projects.SOLQ.tests.conftest import small_model

OPTIONS = ["MODEL.IUQ.INTER.MAX_QUERIES", "-1", "MODEL.IUQ.MEMORY.CAPACITY", "300", "MODEL.RESNETS.NORM", "FrozenBN"]


def train(rank: int, ranks: int, reduce: bool) -> Steps:
    model = small_model("SOLQIUQ", *OPTIONS, "MODEL.REDUCE_NORMALIZER", str(reduce))
    return train_on_rank(model, rank, ranks)


def worker(rank: int, ranks: int, folder: Path) -> dict[bool, Steps]:
    """One of the processes."""
    return {reduce: train(rank, ranks, reduce) for reduce in (True, False)}


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, float]]:
    """How far two processes are from one, with and without MODEL.REDUCE_NORMALIZER."""
    two, one = (run_ranks(__file__, ranks, tmp_path_factory.mktemp("several")) for ranks in (2, 1))
    return {reduce: deviations([rank[reduce] for rank in two], one[0][reduce]) for reduce in (True, False)}


@pytest.mark.slow
def test_reduced_they_train_as_one_process(apart: dict[bool, dict[str, float]]) -> None:
    found = apart[True]
    assert {"loss_ce", "loss_vector_0", "loss_pixel_dice", "loss_pixel_bce", "loss_inter", "loss_equi"} < set(found)
    assert max(found.values()) < 1e-3, found


@pytest.mark.slow
def test_as_published_vectors_count_the_processes_own_pairs(apart: dict[bool, dict[str, float]]) -> None:
    found = apart[False]
    assert max(found[name] for name in ("loss_ce", "loss_bbox", "loss_giou")) < 1e-3  # the average number is reduced
    assert found["loss_vector"] > 1e-2, found


if __name__ == "__main__":
    main(worker)
