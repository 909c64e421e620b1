"""Mask2Former's pixel decoder: a deformable transformer encoder over three maps and one step of a feature pyramid.

Source: docs/parity/mask2former.md, "Pixel decoder".
Shapes: B images, C channels, S cells of the three maps together, coarse first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.layers import MSDeformAttn, sine_positions

_POINTS = 4  # points that each head reads on each map
_FEEDFORWARD = 1024

Size = tuple[int, int]


class EncoderLayer(nn.Module):
    """Deformable self-attention of all cells, then a feed-forward network; a norm follows each of them."""

    def __init__(self, channels: int, levels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(channels, levels, heads, _POINTS)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, _FEEDFORWARD)
        self.linear2 = nn.Linear(_FEEDFORWARD, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, reference: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Tokens (B, S, C) to (B, S, C). The positions (S, C) are added to the queries only, never to the values."""
        attended = self.self_attn(tokens + positions, reference, tokens, sizes)
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        normed: Tensor = self.norm2(tokens + self.dropout(self.linear2(hidden)))
        return normed


class Encoder(nn.Module):
    """The layers, under their published name."""

    def __init__(self, layers: Sequence[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class DeformableEncoder(nn.Module):
    """An encoder in which every cell of every map attends to all maps."""

    def __init__(self, channels: int, levels: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.empty(levels, channels))
        self.encoder = Encoder([EncoderLayer(channels, levels, heads, dropout) for _ in range(layers)])
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), coarse first, to maps of the same sizes."""
        sizes = [(one.shape[2], one.shape[3]) for one in maps]
        tokens = torch.cat([one.flatten(2) for one in maps], dim=2).transpose(1, 2)
        positions = torch.cat(
            [
                sine_positions(size, tokens.shape[2], tokens) + embedding
                for size, embedding in zip(sizes, self.level_embed, strict=True)
            ]
        )
        reference = torch.cat([cell_centres(size, tokens) for size in sizes])[None, :, None]
        for layer in self.encoder.layers:
            tokens = layer(tokens, positions, reference, sizes)
        parts = tokens.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        return [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def cell_centres(size: Size, like: Tensor) -> Tensor:
    """(h * w, 2) x, y of a map's cell centres, as shares of its sides, row by row."""
    rows, columns = ((torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n for n in size)
    return torch.stack([columns.repeat(size[0]), rows.repeat_interleave(size[1])], dim=1)


class MSDeformAttnPixelDecoder(nn.Module):
    """Makes the mask features and three maps for the transformer decoder from the backbone's features."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        lateral: str,
        encoded: Sequence[str],
        channels: int,
        mask_channels: int,
        layers: int,
        heads: int,
        dropout: float,
        norm: str,
    ) -> None:
        """
        Args:
            input_shape: channels and strides of the backbone's features.
            lateral: the name of the finest map, which the pyramid's step uses; the mask features have its size.
            encoded: the names of the maps that the encoder reads, fine first.
            channels: the channels C.
            mask_channels: the channels of the mask features.
            layers: the number of encoder layers.
            heads: the number of heads of the encoder's attention.
            dropout: the dropout rate in the encoder.
            norm: the norm of the pyramid's step.
        """
        super().__init__()
        self.lateral, self.encoded = lateral, list(encoded)[::-1]
        self.mask_channels, self.stride = mask_channels, input_shape[lateral].stride
        self.input_proj = nn.ModuleList()
        for name in self.encoded:
            convolution = nn.Conv2d(input_shape[name].channels, channels, 1)
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            self.input_proj.append(nn.Sequential(convolution, nn.GroupNorm(32, channels)))
        self.transformer = DeformableEncoder(channels, len(self.encoded), layers, heads, dropout)
        bias = norm == ""
        self.adapter_1 = Conv2d(input_shape[lateral].channels, channels, 1, bias=bias, norm=get_norm(norm, channels))
        self.layer_1 = Conv2d(channels, channels, 3, padding=1, bias=bias, norm=get_norm(norm, channels))
        self.mask_features = Conv2d(channels, mask_channels, 1)
        for convolution in (self.adapter_1, self.layer_1, self.mask_features):
            weight_init.c2_xavier_fill(convolution)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """The constructor's arguments from MODEL.SEM_SEG_HEAD, for a backbone's maps `input_shape`.

        Raises:
            UserError: a value of these keys is unknown, or does not fit the others or the backbone.
        """
        head = cfg.MODEL.SEM_SEG_HEAD
        encoded = sorted(head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES, key=lambda name: input_shape[name].stride)
        lateral = [name for name in head.IN_FEATURES if name not in encoded]
        strides = [input_shape[name].stride for name in [*lateral, *encoded]]
        if len(lateral) != 1 or strides != [head.COMMON_STRIDE * 2**power for power in range(4)]:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES {head.IN_FEATURES} and DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES "
                f"{encoded} do not fit: the encoder takes three maps of 2, 4 and 8 times COMMON_STRIDE "
                f"{head.COMMON_STRIDE}, and one more map has that stride, as res2 to res5. Strides are {strides}."
            )
        return {
            "input_shape": input_shape,
            "lateral": lateral[0],
            "encoded": encoded,
            "channels": head.CONVS_DIM,
            "mask_channels": head.MASK_DIM,
            "layers": head.TRANSFORMER_ENC_LAYERS,
            "heads": cfg.MODEL.MASK_FORMER.NHEADS,
            "dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
            "norm": head.NORM,
        }

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The mask features and the decoder's maps, in the weights' float32 also under autocast, as published.

        Args:
            features: the backbone's maps (B, C_i, h_i, w_i) by name.

        Returns:
            (B, mask channels, h, w) of the finest map's size, and three maps (B, C, h_i, w_i), coarse first.
        """
        dtype, finest = self.mask_features.weight.dtype, features[self.lateral]
        with torch.autocast(finest.device.type, enabled=False):
            projected = [
                project(features[name].to(dtype)) for project, name in zip(self.input_proj, self.encoded, strict=True)
            ]
            maps = self.transformer(projected)
            upsampled = F.interpolate(maps[-1], size=finest.shape[2:], mode="bilinear", align_corners=False)
            merged = F.relu(self.layer_1(self.adapter_1(finest.to(dtype)) + upsampled))
            return self.mask_features(merged), maps
