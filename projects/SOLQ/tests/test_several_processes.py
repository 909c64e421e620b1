"""SOLQ on two gloo processes, one of them at times without any instance. Also the processes' script."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from adet_iuq.iuq import world_size
from helpers.gloo import main, run_ranks
from helpers.scenes import discs
from projects.SOLQ.tests.conftest import small_model

# Instances of the four images of each step; rank r has the images r and r + 2.
STEPS = [(3, 1, 2, 5), (4, 0, 1, 0)]
OPTIONS = ["MODEL.IUQ.INTER.MAX_QUERIES", "-1", "MODEL.IUQ.MEMORY.CAPACITY", "300", "MODEL.RESNETS.NORM", "FrozenBN"]


def train(rank: int, ranks: int, reduce: bool) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Losses of this rank and averaged gradients of every step."""
    model = small_model("SOLQIUQ", *OPTIONS, "MODEL.REDUCE_NORMALIZER", str(reduce)).train()
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if world_size() > 1 else model
    done = []
    for step, counts in enumerate(STEPS):
        batch = [discs(64, 64, counts[image], seed=10 * step + image) for image in range(rank, 4, ranks)]
        model.zero_grad()
        with EventStorage():
            losses = wrapped(batch)
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        done.append(({name: loss.detach() for name, loss in losses.items()}, gradients))
    return done


def worker(rank: int, ranks: int, folder: Path) -> dict[bool, Any]:
    """One of the processes."""
    return {reduce: train(rank, ranks, reduce) for reduce in (True, False)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Any]:
    """What two processes found, and what one found."""
    two, one = (run_ranks(__file__, ranks, tmp_path_factory.mktemp("several")) for ranks in (2, 1))
    return two, one[0]


def deviations(results: tuple[list[Any], Any], reduce: bool) -> dict[str, float]:
    """The largest deviation of each mean loss, and of the gradients relative to the largest of their parameter."""
    two, one = results
    worst: dict[str, float] = {}
    for first, second, alone in zip(two[0][reduce], two[1][reduce], one[reduce], strict=True):
        for name, loss in alone[0].items():
            apart = float(((first[0][name] + second[0][name]) / 2 - loss).abs())
            worst[name] = max(worst.get(name, 0.0), apart)
        for name, gradient in alone[1].items():
            apart = float((first[1][name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-2))
            worst["gradient"] = max(worst.get("gradient", 0.0), apart)
    return worst


@pytest.mark.slow
def test_reduced_they_train_as_one_process(results: tuple[list[Any], Any]) -> None:
    found = deviations(results, reduce=True)
    assert {"loss_ce", "loss_vector_0", "loss_pixel_dice", "loss_pixel_bce", "loss_inter", "loss_equi"} < set(found)
    assert max(found.values()) < 1e-3, found


@pytest.mark.slow
def test_as_published_vectors_count_the_processes_own_pairs(results: tuple[list[Any], Any]) -> None:
    found = deviations(results, reduce=False)
    assert max(found[name] for name in ("loss_ce", "loss_bbox", "loss_giou")) < 1e-3  # the average number is reduced
    assert found["loss_vector"] > 1e-2, found


if __name__ == "__main__":
    main(worker)
