"""Two gloo processes hold the same memory as one that sees all images. This file is also the processes' script."""

from pathlib import Path

import pytest
import torch

from adet_iuq.iuq import InstanceSampler, PixelMemory, Pixels, Queries, Scene, all_gather_rows, rank, world_size
from helpers.gloo import main, run_ranks

RANKS = 2
# Instances of each image of each step, by global sample index; rank r has the images r, r + 2, ...
STEPS = [[1, 2, 3, 1], [0, 2, 0, 1], [0, 0, 0, 0], [4, 0, 3, 0], [6, 6, 6, 6], [1, 0, 0, 0]]
SETTINGS = [(40, torch.float32), (40, torch.bfloat16), (1000, torch.float16), (0, torch.float32)]


def scene_of(step: int, images: list[int]) -> Scene:
    """The images with these numbers of one step, whichever process asks for them."""
    features, masks, scales = [], [], []
    for image in images:
        generator = torch.Generator().manual_seed(100 * step + image)
        features.append(torch.randn(3, 8, 8, generator=generator))
        masks.append(torch.rand(STEPS[step][image], 32, 32, generator=generator) > 0.5)
        scales.append(torch.rand(STEPS[step][image], generator=generator))
    none = torch.zeros(0, dtype=torch.long)
    return Scene(
        queries=Queries(torch.zeros(0, 3), none, none),
        features=torch.stack(features),
        stride=4,
        offset=2,
        masks=masks,
        image_ids=torch.tensor(images) + 10 * step,
        image_sizes=[(32, 32)] * len(images),
        sample_seeds=[1000 * step + image for image in images],
        sample_indices=[4 * step + image for image in images],
        instance_context={"scale": scales},
    )


def memory_states(images: list[int]) -> list[dict[str, torch.Tensor]]:
    """The memory after each step of each setting, if this process samples `images`."""
    states = []
    for capacity, dtype in SETTINGS:
        memory = PixelMemory(3, capacity=capacity, dtype=dtype, context={"scale": ()})
        for step in range(len(STEPS)):
            memory.enqueue(InstanceSampler(5)(scene_of(step, images)))
            states.append(memory.state())
    return states


def gathered_columns(index: int) -> list[torch.Tensor]:
    """Columns of all dtypes, with as many rows as the rank's number plus one."""
    rows = torch.arange(index + 1) + 10 * index
    return [
        rows,
        rows % 2 == 0,
        (rows / 3).half()[:, None, None].expand(-1, 2, 3),
        rows.double() / 7,
        torch.zeros(len(rows), 0),
        rows.float()[None].t(),
        rows.to(torch.uint8),
    ]


def worker(index: int, ranks: int, folder: Path) -> tuple[list[dict], list[torch.Tensor], str]:
    """One of the processes: what it holds."""
    assert (rank(), world_size()) == (index, RANKS)
    states = memory_states(list(range(index, 4, RANKS)))
    columns = all_gather_rows(gathered_columns(index))
    try:
        all_gather_rows([torch.zeros(2, 3 + index)])
        error = ""
    except RuntimeError as raised:
        error = str(raised)
    return states, columns, error


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[dict], list[torch.Tensor], str]]:
    """What each process holds."""
    return run_ranks(__file__, RANKS, tmp_path_factory.mktemp("gloo"))


def test_every_rank_holds_what_one_process_holds(results: list) -> None:
    expected = memory_states([0, 1, 2, 3])
    assert len(expected) == len(SETTINGS) * len(STEPS)
    for states, _, _ in results:
        for one, many in zip(expected, states, strict=True):
            assert one.keys() == many.keys()
            assert all(torch.equal(one[name], many[name]) and one[name].dtype == many[name].dtype for name in one)


def test_the_steps_wrap_around_and_overflow() -> None:
    """Else the comparison above would show less than it says."""
    counts = [len(InstanceSampler(5)(scene_of(step, [0, 1, 2, 3]))) for step in range(len(STEPS))]
    assert counts == [35, 15, 0, 35, 120, 5]


def test_ragged_gather_is_exact_in_every_dtype(results: list) -> None:
    expected = [torch.cat(parts) for parts in zip(*(gathered_columns(r) for r in range(RANKS)), strict=True)]
    for _, columns, _ in results:
        for one, many in zip(expected, columns, strict=True):
            assert one.dtype == many.dtype and torch.equal(one, many)


def test_rows_of_different_width_are_an_error_not_a_hang(results: list) -> None:
    assert all("bytes per row, by rank: [12, 16]" in error for _, _, error in results)


def test_without_a_process_group_nothing_happens() -> None:
    assert (rank(), world_size()) == (0, 1)
    row = torch.ones(2, 3, requires_grad=True)
    (gathered,) = all_gather_rows([row])
    assert torch.equal(gathered, row) and not gathered.requires_grad
    memory = PixelMemory(3, capacity=4)
    memory.enqueue(Pixels(row, torch.zeros(2, 2), torch.zeros(2, dtype=torch.long)))
    assert len(memory) == 2


if __name__ == "__main__":
    main(worker)
