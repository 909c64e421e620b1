"""The parts of Swin as Mask2Former publishes it: windows, attention, blocks, merging (docs/parity/mask2former.md, "Swin").

timm's Swin computes something else wherever a level's map is no multiple of the window: it rolls, then pads.
Shapes: B images, (H, W) cells of a level, C its channels, w the side of a window, N = w * w.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Added to the logits of pairs from different regions. It is the published value; a strong enough logit still gets through.
_APART = -100.0


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pads (B, H, W, C) with zeros at the right and the bottom, to multiples of `multiple`."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % multiple, 0, -height % multiple))


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) to (B, windows, N, C); H and W are multiples of the window. Windows and cells run row by row."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(batch, -1, window * window, channels)


def join_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `split_windows` for a map of this size."""
    height, width = size
    x = x.view(x.shape[0], height // window, width // window, window, window, -1)
    return x.transpose(2, 3).reshape(x.shape[0], height, width, -1)


def shift_mask(size: tuple[int, int], window: int, like: Tensor) -> Tensor:
    """The numbers (windows, 1, N, N) that are added to the logits after a map of padded `size` was rolled by window // 2.

    The roll brings the first rows and columns to the end, where cells meet that were not neighbours: these pairs get -100.
    """
    rows, columns = (_regions(length, window, like.device) for length in size)
    regions = (3 * rows[:, None] + columns[None, :])[None, :, :, None]
    labels = split_windows(regions, window)[0, :, :, 0]
    apart = labels[:, None, :, None] != labels[:, None, None, :]
    return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill_(apart, _APART)


def _regions(length: int, window: int, device: torch.device) -> Tensor:
    """The regions of an axis, (length,): 1 in the last window, 2 in the part that the roll brought there, 0 elsewhere."""
    cells = torch.arange(length, device=device)
    return (cells >= length - window).long() + (cells >= length - window // 2).long()


def relative_position_index(window: int) -> Tensor:
    """(N, N) long: the row of the bias table for each pair (query, key): (dy + w - 1) * (2 w - 1) + dx + w - 1."""
    cells = torch.arange(window)
    y, x = (axis.flatten() for axis in torch.meshgrid(cells, cells, indexing="ij"))
    offset = window - 1
    return (y[:, None] - y[None] + offset) * (2 * window - 1) + x[:, None] - x[None] + offset


class WindowAttention(nn.Module):
    """Attention inside windows with a learned bias for every relative position."""

    relative_position_index: Tensor

    def __init__(
        self, channels: int, window: int, heads: int, qkv_bias: bool, scale: float | None, drops: tuple[float, float]
    ) -> None:
        """The arguments are those of `D2SwinTransformer`; `drops` are the dropout rates of attention weights and output."""
        super().__init__()
        self.heads, self.scale = heads, scale or (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.attn_drop = drops[0]
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(drops[1])
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, windows, N, C) to the same; `mask` (windows, 1, N, N) is added to the logits."""
        batch, windows, tokens, channels = x.shape
        qkv = self.qkv(x).view(batch * windows, tokens, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(1, tokens, tokens, self.heads).permute(0, 3, 1, 2)
        if mask is not None:
            bias = (bias + mask).repeat(batch, 1, 1, 1)
        drop = self.attn_drop if self.training else 0.0
        # The bias takes the attention's dtype, because autocast has made q, k and v smaller than the bias.
        out = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), drop, scale=self.scale)
        out = out.transpose(1, 2).reshape(batch, windows, tokens, channels)
        return self.proj_drop(self.proj(out))


class SwinBlock(nn.Module):
    """Window attention, shifted in every second block, and an MLP; both are residual."""

    def __init__(self, attn: WindowAttention, channels: int, mlp_ratio: float, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attn
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), drop=drop)

    def forward(self, x: Tensor, window: int, mask: Tensor | None) -> Tensor:
        """(B, H, W, C) to the same; with a mask the windows are shifted by half their side."""
        height, width = x.shape[1:3]
        shift = 0 if mask is None else window // 2
        # Pad, then roll, so that padded cells stand between the map's end and the rolled part. They attend as well.
        padded = pad_to_multiple(self.norm1(x), window)
        size = (padded.shape[1], padded.shape[2])
        rolled = padded.roll((-shift, -shift), (1, 2)) if shift else padded
        out = join_windows(self.attn(split_windows(rolled, window), mask), window, size)
        out = out.roll((shift, shift), (1, 2)) if shift else out
        x = x + self.drop_path(out[:, :height, :width])
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halves the map's size and doubles its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        x = pad_to_multiple(x, 2)
        corners = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class SwinLevel(nn.Module):
    """The blocks of one level and, except after the last one, the step down to the next."""

    def __init__(self, blocks: list[SwinBlock], channels: int, window: int, last: bool, checkpointing: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = None if last else PatchMerging(channels)
        self.window, self.checkpointing = window, checkpointing

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same, before the step down."""
        size = (x.shape[1] + -x.shape[1] % self.window, x.shape[2] + -x.shape[2] % self.window)
        shifted = shift_mask(size, self.window, x)
        for index, block in enumerate(self.blocks):
            mask = shifted if index % 2 else None
            if self.checkpointing and self.training:
                x = checkpoint(block, x, self.window, mask, use_reentrant=False)
            else:
                x = block(x, self.window, mask)
        return x


class PatchEmbed(nn.Module):
    """Patches to vectors."""

    def __init__(self, patch: int, channels: int, norm: bool) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), of any size, to (B, ceil(H / patch), ceil(W / patch), C)."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.patch, 0, -height % self.patch))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))
