"""The checksum sees every change; comparing it between ranks: tests/distributed/test_uneven_ranks_gloo.py."""

import pytest
import torch

from adet_iuq.iuq.consistency import check_same_on_all_ranks, checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_any_flipped_bit_changes_it(dtype: torch.dtype) -> None:
    tensor = torch.arange(11).to(dtype).reshape(11, 1)
    raw, seen = tensor.view(torch.uint8), {int(checksum(tensor))}
    for byte in range(raw.numel()):
        for bit in range(8):
            raw.flatten()[byte] ^= 1 << bit
            seen.add(int(checksum(tensor)))
            raw.flatten()[byte] ^= 1 << bit
    assert len(seen) == 1 + 8 * raw.numel()


def test_any_two_rows_that_change_places_change_it() -> None:
    """Rows of round numbers, whose bits are mostly zero."""
    tensor = torch.zeros(2000, 2)
    tensor[:, 0] = torch.arange(2000) % 3
    expected = int(checksum(tensor))
    for distance in (1, 4, 256, 1024):
        other = tensor.clone()
        other[[0, distance]] = other[[distance, 0]]
        assert not torch.equal(other, tensor) and int(checksum(other)) != expected


def test_zeros_of_another_number_change_it() -> None:
    assert len({int(checksum(torch.zeros(count))) for count in range(6)}) == 6


def test_it_depends_on_the_content_only() -> None:
    tensor = torch.randn(100, 3)
    expected = checksum(tensor)
    assert torch.equal(checksum(tensor.clone()), expected) and expected.dtype == torch.int64
    assert torch.equal(checksum(tensor.clone().requires_grad_()), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_it_reads_the_elements_of_a_strided_tensor_and_nothing_between_them(dtype: torch.dtype) -> None:
    table = torch.arange(24).to(dtype).reshape(12, 2)
    assert torch.equal(checksum(table[:, 0]), checksum(table[:, 0].clone()))


def test_one_process_agrees_with_itself() -> None:
    check_same_on_all_ranks({"x": torch.ones(2)}, "memory")
