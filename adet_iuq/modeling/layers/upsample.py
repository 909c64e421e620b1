"""Upsampling by whole factors under CondInst's alignment."""

from torch import Tensor
from torch.nn import functional as F


def aligned_bilinear(maps: Tensor, factor: int) -> Tensor:
    """Linear upsampling after which input cell i sits at output index `factor * i + factor // 2`.

    Along each axis output index k samples the input at clamp((k - factor // 2) / factor, 0, size - 1)
    (parity spec of CondInst, section 3).

    Args:
        maps: (N, C, H, W), float.
        factor: positive; 1 is the identity.

    Returns:
        (N, C, factor * H, factor * W).
    """
    if factor == 1 or maps.numel() == 0:
        return maps.repeat_interleave(factor, 2).repeat_interleave(factor, 3) if factor > 1 else maps
    height, width = maps.shape[-2:]
    before, after = factor // 2, factor - factor // 2 - 1
    inner = F.interpolate(
        maps, size=(factor * (height - 1) + 1, factor * (width - 1) + 1), mode="bilinear", align_corners=True
    )
    return F.pad(inner, (before, after, before, after), mode="replicate")
