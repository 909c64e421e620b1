"""How much is computed at one time, where all of it at once would take too much memory."""

from collections.abc import Mapping

import torch

_DEVICE_BYTES = 128 * 1024**2  # enough to keep a device busy


def items_at_once(limits: Mapping[str, int], device: torch.device, item_bytes: int) -> int:
    """How many items of `item_bytes` one chunk may have, at least 1.

    Args:
        limits: the bytes of a chunk by the type of device, such as "cpu", whose cache is small; other types get 128 MB.
        device: where the items are computed.
        item_bytes: the bytes that one item takes.
    """
    return max(1, limits.get(device.type, _DEVICE_BYTES) // max(1, item_bytes))
