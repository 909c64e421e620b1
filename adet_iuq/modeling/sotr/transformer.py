"""SOTR's twin transformer: row and column attention in parallel, convolutions in place of position-wise layers.

Source: docs/parity/sotr.md, "Twin transformer"; parameters under their published names.
Shapes: B images, C = `channels`, (h, w) the map, X the doubled map (B, C, h, W) with W = 2 w.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEIGHT, WIDTH = 1, 2  # axes of a map with the channels last


class AxialSelfAttention(nn.Module):
    """Multi-head self-attention along one axis of a map: every row, or every column, is a sequence of its own."""

    def __init__(self, channels: int, heads: int, axis: int) -> None:
        """
        Args:
            channels: the channels of the map, a multiple of `heads`.
            heads: the number of heads; each owns `channels / heads` consecutive channels.
            axis: HEIGHT: sequences are columns; WIDTH: sequences are rows.
        """
        super().__init__()
        self.heads, self.axis = heads, axis
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_kv = nn.Linear(channels, 2 * channels, bias=False)  # keys first, then values
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, W, C), channels last, to the same shape."""
        # There are three projections instead of one that is cut, so that each result is dense and sequences are views of it.
        keys, values = self.to_kv.weight.chunk(2)
        query, key, value = (self._sequences(F.linear(x, weight)) for weight in (self.to_q.weight, keys, values))
        # Written out, because fused attention rounds differently: leaky ReLUs behind it then switch, which moves the
        # gradient of a gate by up to 2e-3 of itself (1e-3 is allowed). Sequences are short, so the matrix costs little.
        similarity = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        attended = similarity.softmax(dim=3) @ value
        return self.to_out(attended.transpose(1, 2).reshape(x.shape))

    def _sequences(self, x: Tensor) -> Tensor:
        """A view (batch, heads, length, channels of a head) of a dense (B, h, W, C) map.

        The heads attend independently, so columns are treated as further heads. That way no data is moved.
        """
        images, height, width, channels = x.shape
        if self.axis == WIDTH:
            shape = (images * height, width, self.heads, channels // self.heads)
        else:
            shape = (images, height, width * self.heads, channels // self.heads)
        return x.view(shape).transpose(1, 2)


class Gated(nn.Module):
    """g * fn(x) with a learned scalar g that starts at 0 (ReZero, arXiv 2003.04887)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.g = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """The gated output of the inner module."""
        return self.fn(x) * self.g


class ChannelsFirst(nn.Module):
    """Turns the output of a module on maps with the channels last, (B, h, W, C), into the usual (B, C, h, W)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, W, C) to (B, C, h, W), a view."""
        return self.fn(x).permute(0, 3, 1, 2)


class TwinBlocks(nn.Module):
    """`depth` pairs of blocks, each of the form x + branch_0(x) + branch_1(x): first attention, then convolutions."""

    def __init__(self, channels: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            attentions = (AxialSelfAttention(channels, heads, axis) for axis in (HEIGHT, WIDTH))
            self.blocks.append(nn.ModuleList(ChannelsFirst(Gated(attention)) for attention in attentions))
            self.blocks.append(nn.ModuleList(Gated(_convolutions(channels)) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, W) to the same shape."""
        for attention, convolution in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            cells = x.permute(0, 2, 3, 1).contiguous()  # the only copy of a block; both of its branches read it
            x = x + attention[0](cells) + attention[1](cells)  # type: ignore[index]
            x = x + convolution[0](x) + convolution[1](x)  # type: ignore[index]
        return x


class TwinTransformer(nn.Module):
    """The transformer of SOTR's head, which is the identity at the start of training.

    The defaults are constants of the published code. Only zero padding tells it positions.
    """

    def __init__(self, channels: int = 256, depth: int = 12, heads: int = 8) -> None:
        """
        Args:
            channels: the channels of the maps.
            depth: the number of pairs of an attention block and a convolution block.
            heads: the number of heads of the attention.
        """
        super().__init__()
        self.layers = TwinBlocks(channels, depth, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape.

        Two copies of the map are put side by side, and the two halves of the result are averaged. The halves differ
        from the first convolution on, because it reads one copy's right edge beside the other's left edge.
        """
        left, right = self.layers(torch.cat([x, x], dim=3)).chunk(2, dim=3)
        return (left + right) / 2


def _convolutions(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(0.01),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
