"""Deformable convolutions (arXiv 1811.11168) on torchvision's operator, which runs on every device."""

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d


def split_offsets(predicted: Tensor, modulated: bool) -> tuple[Tensor, Tensor | None]:
    """Splits the numbers that a convolution predicts for a deformable one; they are in the operator's own order.

    Args:
        predicted: (B, 2 n, h, w), or (B, 3 n, h, w) if `modulated`, for n kernel points (times groups).
        modulated: whether the last third weighs the points, through a sigmoid.

    Returns:
        Offsets (B, 2 n, h, w): pairs (dy, dx) in cells, points row by row; and weights (B, n, h, w) in [0, 1] or None.
    """
    if not modulated:
        return predicted, None
    points = predicted.shape[1] // 3
    return predicted[:, : 2 * points], predicted[:, 2 * points :].sigmoid()


class DeformableConv(nn.Module):
    """A 3x3 deformable convolution and the convolution that predicts its offsets. At the start it is a plain convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, modulated: bool, bias: bool) -> None:
        super().__init__()
        self.modulated = modulated
        self.offset = nn.Conv2d(in_channels, 27 if modulated else 18, 3, padding=1)
        self.conv = DeformConv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        self.reset_offsets()

    @torch.no_grad()
    def reset_offsets(self) -> None:
        """Sets the offsets to zero: every point lies at its place, and all points have the same weight."""
        for parameter in self.offset.parameters():
            parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h, w)."""
        out: Tensor = self.conv(x, *split_offsets(self.offset(x), self.modulated))
        return out
