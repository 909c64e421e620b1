"""The ring buffer against a plain list, capacity 0, overflow, dtypes, and saving."""

import warnings

import pytest
import torch

from adet_iuq.iuq import PixelMemory, Pixels

DIM = 3


def _rows(count: int, start: int, dtype: torch.dtype = torch.float32) -> Pixels:
    """Rows that all say their own number."""
    number = torch.arange(start, start + count)
    return Pixels(
        number[:, None].to(dtype).expand(count, DIM).clone(),
        number[:, None].float().expand(count, 2).clone(),
        number,
        {"scale": number.float()},
        number,
    )


def _memory(capacity: int, dtype: torch.dtype = torch.float32) -> PixelMemory:
    return PixelMemory(DIM, capacity=capacity, dtype=dtype, context={"scale": ()})


def _numbers(memory: PixelMemory) -> list[int]:
    """What is stored, in slot order; all columns agree."""
    pixels = memory.pixels()
    assert torch.equal(pixels.features[:, 0].long(), pixels.image_ids)
    assert torch.equal(pixels.locations[:, 1].long(), pixels.image_ids)
    assert torch.equal(pixels.context["scale"].long(), pixels.image_ids)
    return pixels.image_ids.tolist()


def test_ring_equals_a_list_with_modulo_writes() -> None:
    memory, twin, position, number = _memory(7), [-1] * 7, 0, 0
    for count in (3, 0, 2, 4, 7, 1, 0, 5, 6):
        memory.enqueue(_rows(count, number))
        for _ in range(count):
            twin[position % 7] = number
            position, number = position + 1, number + 1
        assert _numbers(memory) == [entry for entry in twin if entry >= 0]
        assert memory.fill == pytest.approx(min(position, 7) / 7)


def test_starts_empty() -> None:
    memory = _memory(4)
    assert len(memory) == 0 and memory.fill == 0.0 and len(memory.pixels()) == 0
    assert memory.state()["image_ids"].tolist() == [-1] * 4


def test_takes_no_space_before_something_is_stored_or_loaded() -> None:
    memory = _memory(1000, torch.float16)
    assert sum(buffer.numel() for buffer in memory.buffers()) == 3  # the cursor
    assert len(memory.image_counts().ids) == len(memory.visits().ids) == 0
    memory.enqueue(_rows(0, 0))
    assert memory.features.shape == (1000, DIM) and memory.features.dtype == torch.float16
    assert memory.image_ids.tolist() == [-1] * 1000
    loaded = _memory(1000, torch.float16)
    loaded.load_state(memory.state())
    assert loaded.get_buffer("context_scale").shape == (1000,)


def test_capacity_zero_holds_the_latest_rows_only() -> None:
    memory = _memory(0)
    for start, count in ((0, 5), (5, 2), (7, 0), (7, 9)):
        memory.enqueue(_rows(count, start))
        assert _numbers(memory) == list(range(start, start + count))
        assert memory.fill == float(count > 0)


def test_overflow_keeps_a_uniform_subset() -> None:
    memory, hits = _memory(5), torch.zeros(20)
    for _ in range(2000):
        memory.enqueue(_rows(20, 0))
        kept = _numbers(memory)
        assert len(set(kept)) == 5
        hits[kept] += 1
    # Each row is kept with probability 1/4; six standard deviations of the 20 binomials.
    assert (hits / 2000 - 0.25).abs().max() < 6 * (0.25 * 0.75 / 2000) ** 0.5


def test_overflow_draw_depends_on_the_number_of_writes_only() -> None:
    first, second = _memory(5), _memory(5)
    torch.manual_seed(0)
    first.enqueue(_rows(20, 0))
    torch.manual_seed(1)
    second.enqueue(_rows(20, 0))
    assert _numbers(first) == _numbers(second)
    before = _numbers(first)
    first.enqueue(_rows(20, 0))
    assert sorted(_numbers(first)) != sorted(before)


def test_rows_are_sorted_by_sample_index() -> None:
    rows = _rows(4, 0)
    rows.order = torch.tensor([9, 2, 9, 1])
    memory = _memory(4)
    memory.enqueue(rows)
    assert _numbers(memory) == [3, 1, 0, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtype_is_that_of_the_features_only(dtype: torch.dtype) -> None:
    memory = _memory(4, dtype)
    rows = _rows(2, 0)
    rows.features = torch.tensor([[1.0, -1e6, 1e6], [0.1, 0.2, 0.3]])
    memory.enqueue(rows)
    pixels = memory.pixels()
    assert pixels.features.dtype == dtype and pixels.locations.dtype == torch.float32
    limit = min(1e6, torch.finfo(dtype).max)
    torch.testing.assert_close(pixels.features[0].float(), torch.tensor([1.0, -limit, limit]), rtol=5e-3, atol=0)
    torch.testing.assert_close(pixels.features[1].float(), rows.features[1], rtol=5e-3, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_pixel_that_is_not_finite_becomes_an_empty_slot(bad: float) -> None:
    memory, rows = _memory(4), _rows(3, 1)
    rows.features[1, 2] = bad
    memory.enqueue(rows)
    assert memory.pixels().image_ids.tolist() == [1, -1, 3]
    assert memory.features.isfinite().all()


@pytest.mark.parametrize("capacity", [0, 4])
def test_no_gradient_is_stored(capacity: int) -> None:
    memory, rows = _memory(capacity), _rows(3, 0)
    rows.features.requires_grad_()
    memory.enqueue(rows)
    assert not memory.pixels().features.requires_grad
    assert not any(buffer.requires_grad for buffer in memory.buffers())


def test_nothing_is_in_the_state_dict() -> None:
    assert _memory(4).state_dict() == {}
    assert len(list(_memory(4).buffers())) == 5


def test_reading_before_writing_is_detected_by_autograd() -> None:
    """pixels() are views: a graph over them must not silently see later rows."""
    memory = _memory(2)
    memory.enqueue(_rows(2, 1))
    query = torch.ones(DIM, requires_grad=True)
    value = (memory.pixels().features @ query).sum()
    memory.enqueue(_rows(2, 5))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_context_must_match() -> None:
    rows = _rows(1, 0)
    rows.context = {}
    with pytest.raises(ValueError, match=r"context \[\].*\['scale'\]"):
        _memory(4).enqueue(rows)


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="capacity"):
        _memory(-1)
    with pytest.raises(ValueError, match="floating-point"):
        _memory(4, torch.int32)


@pytest.mark.parametrize("capacity", [0, 5, 7])
def test_state_continues_exactly(capacity: int) -> None:
    memory, resumed = _memory(capacity), _memory(capacity)
    for start in (0, 3, 6):
        memory.enqueue(_rows(3, start))
    resumed.load_state(memory.state())
    for start, count in ((9, 2), (11, 30)):  # the second one draws a subset
        memory.enqueue(_rows(count, start))
        resumed.enqueue(_rows(count, start))
        assert _numbers(memory) == _numbers(resumed)


def test_state_is_a_copy() -> None:
    memory = _memory(3)
    memory.enqueue(_rows(2, 1))
    state = memory.state()
    memory.enqueue(_rows(2, 8))
    assert state["image_ids"].tolist() == [1, 2, -1]


@pytest.mark.parametrize(
    ("saved", "own", "expected"),
    [(7, 4, [8, 9, 10, 11]), (7, 20, [5, 6, 7, 8, 9, 10, 11]), (7, 0, []), (0, 4, [9, 10, 11])],
)
def test_state_of_another_capacity_keeps_the_newest(saved: int, own: int, expected: list[int]) -> None:
    memory, resumed = _memory(saved), _memory(own)
    for start in (0, 3, 6, 9):
        memory.enqueue(_rows(3, start))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed.load_state(memory.state())
    assert len(caught) == (own > 0)
    assert _numbers(resumed) == expected
    resumed.enqueue(_rows(1, 50))  # the oldest of them goes first
    assert _numbers(resumed) == ([50] if own == 0 else [50, *expected[1:]] if len(expected) == own else [*expected, 50])


def test_state_of_another_segmenter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of shape \(5,\).*\(3,\)"):
        _memory(4).load_state(PixelMemory(5, capacity=4, context={"scale": ()}).state())
    with pytest.raises(ValueError, match="context_scale"):
        _memory(4).load_state(PixelMemory(DIM, capacity=4).state())


def _of_images(*images: int) -> Pixels:
    rows = _rows(len(images), 0)
    rows.image_ids, rows.order = torch.tensor(images), None
    return rows


def test_visits_are_runs_in_the_order_of_writing() -> None:
    memory = _memory(8)
    memory.enqueue(_of_images(4, 4, 4, 2))
    assert _visits(memory) == {4: 1, 2: 1}
    memory.enqueue(_of_images(4, 4))
    assert _visits(memory) == {4: 2, 2: 1}
    memory.enqueue(_of_images(7, 7, 4))  # over the end: slots 6, 7, 0; what is left of the first visit is slots 1 and 2
    assert memory.pixels().image_ids.tolist() == [4, 4, 4, 2, 4, 4, 7, 7]
    assert _visits(memory) == {4: 3, 2: 1, 7: 1}


def test_a_pixel_that_is_not_finite_does_not_make_two_visits_of_one() -> None:
    memory, rows = _memory(8), _of_images(4, 4, 4, 2)
    rows.features[1] = float("nan")
    memory.enqueue(rows)
    assert _visits(memory) == {4: 1, 2: 1}


@pytest.mark.parametrize("capacity", [0, 30])
def test_visits_of_a_batch(capacity: int) -> None:
    memory = _memory(capacity)
    memory.enqueue(_of_images(3, 3, 5, 5, 5, 3))
    assert _visits(memory) == {3: 2, 5: 1}


def _visits(memory: PixelMemory) -> dict[int, int]:
    ids, counts = memory.visits()
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
