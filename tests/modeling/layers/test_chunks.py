"""How many items a chunk may have."""

import pytest
import torch

from adet_iuq.modeling.layers import items_at_once


@pytest.mark.parametrize(
    ("device", "item_bytes", "expected"),
    [("cpu", 10, 10), ("cpu", 11, 9), ("cpu", 101, 1), ("cpu", 0, 100), ("cuda", 1024**2, 128), ("mps", 1024**3, 1)],
)
def test_a_chunk_fills_the_limit_of_its_device_and_is_never_empty(device: str, item_bytes: int, expected: int) -> None:
    assert items_at_once({"cpu": 100}, torch.device(device), item_bytes) == expected
