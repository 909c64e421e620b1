"""Mask2Former's transformer decoder: queries attend to the cells inside the masks that they last predicted.

Source: docs/parity/mask2former.md, "Transformer decoder".
Shapes: B images, Q queries, C channels of a query, D of the mask features, K classes, L cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.layers import sine_positions

_LEVELS = 3


@dataclass
class Prediction:
    """The prediction of one layer. A mask is the product of its query's embedding with the mask features (Eq. 4)."""

    logits: Tensor  # (B, Q, K + 1), the last class is "no object"
    embeddings: Tensor  # (B, Q, D)

    def masks(self, mask_features: Tensor) -> Tensor:
        """(B, Q, h, w) mask logits on mask features (B, D, h, w)."""
        return torch.einsum("bqd,bdhw->bqhw", self.embeddings, mask_features)


class Attention(nn.Module):
    """Multi-head attention with torch's parameter names, on fused kernels, and with one mask for all heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None = None) -> Tensor:
        """The attended values (B, Q, C).

        Args:
            query: (B, Q, C).
            key: (B, L, C).
            value: (B, L, C).
            attend: (B, Q, L) bool, the cells that each query sees, at least one per query; None: all.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        projected = [
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        mask = None if attend is None else attend[:, None]
        attended = F.scaled_dot_product_attention(projected[0], projected[1], projected[2], attn_mask=mask)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class CrossAttentionLayer(nn.Module):
    """Queries read a map."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, queries: Tensor, positions: Tensor, key: Tensor, value: Tensor, attend: Tensor) -> Tensor:
        """Queries (B, Q, C) after one layer."""
        normed: Tensor = self.norm(queries + self.multihead_attn(queries + positions, key, value, attend))
        return normed


class SelfAttentionLayer(nn.Module):
    """Queries read each other."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, queries: Tensor, positions: Tensor) -> Tensor:
        """Queries (B, Q, C) after one layer."""
        placed = queries + positions
        normed: Tensor = self.norm(queries + self.self_attn(placed, placed, queries))
        return normed


class FFNLayer(nn.Module):
    """A feed-forward network that is applied to every query by itself."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, queries: Tensor) -> Tensor:
        """Queries (B, Q, C) after one layer."""
        normed: Tensor = self.norm(queries + self.linear2(F.relu(self.linear1(queries))))
        return normed


class MLP(nn.Module):
    """Linear layers with a ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., first width) to (..., last width)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        out: Tensor = last(x)
        return out


class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Turns learned queries into instances: one prediction from the learned queries, then one after every layer."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        mask_channels: int,
        num_classes: int,
        num_queries: int,
        heads: int,
        hidden: int,
        layers: int,
        enforce_projection: bool,
    ) -> None:
        """
        Args:
            in_channels: the channels of the three maps.
            channels: the channels C of a query.
            mask_channels: the channels D of the mask features.
            num_classes: the number of classes K.
            num_queries: the number of queries Q.
            heads: the number of heads of every attention.
            hidden: the width of the feed-forward networks.
            layers: the number of layers; there is one prediction more.
            enforce_projection: whether each map passes a 1x1 convolution even if `in_channels` is C.
        """
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(channels, heads) for _ in range(layers)
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(channels, heads) for _ in range(layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(FFNLayer(channels, hidden) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(channels)
        self.query_feat = nn.Embedding(num_queries, channels)
        self.query_embed = nn.Embedding(num_queries, channels)
        self.level_embed = nn.Embedding(_LEVELS, channels)
        self.input_proj = nn.ModuleList()
        for _ in range(_LEVELS):
            project = nn.Conv2d(in_channels, channels, 1) if enforce_projection or in_channels != channels else None
            if project is not None:
                weight_init.c2_xavier_fill(project)
            self.input_proj.append(project or nn.Identity())
        self.class_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = MLP([channels, channels, channels, mask_channels])

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from MODEL.MASK_FORMER and MODEL.SEM_SEG_HEAD.

        Raises:
            UserError: a value of these keys is unknown, or does not fit the others or the backbone.
        """
        former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
        if former.PRE_NORM:
            raise UserError("MODEL.MASK_FORMER.PRE_NORM True is not supported: every published recipe has False.")
        if former.DEC_LAYERS < 1:
            raise UserError(f"MODEL.MASK_FORMER.DEC_LAYERS is {former.DEC_LAYERS}; it counts predictions, at least 1.")
        return {
            "in_channels": head.CONVS_DIM,
            "channels": former.HIDDEN_DIM,
            "mask_channels": head.MASK_DIM,
            "num_classes": head.NUM_CLASSES,
            "num_queries": former.NUM_OBJECT_QUERIES,
            "heads": former.NHEADS,
            "hidden": former.DIM_FEEDFORWARD,
            "layers": former.DEC_LAYERS - 1,
            "enforce_projection": former.ENFORCE_INPUT_PROJ,
        }

    def forward(self, maps: Sequence[Tensor], mask_features: Tensor) -> list[Prediction]:
        """All predictions: the one from the learned queries comes first, that of the last layer comes last.

        Args:
            maps: three maps (B, in_channels, h_i, w_i), coarse first.
            mask_features: (B, D, h, w).
        """
        keys, values, small_features = [], [], []
        for level, (one, project) in enumerate(zip(maps, self.input_proj, strict=True)):
            size = (one.shape[2], one.shape[3])
            value = project(one).flatten(2).transpose(1, 2) + self.level_embed.weight[level]
            values.append(value)
            keys.append(value + sine_positions(size, value.shape[2], value))
            # Resizing is linear, so the mask features are resized once instead of the masks of every prediction.
            small = F.interpolate(mask_features.detach(), size=size, mode="bilinear", align_corners=False)
            small_features.append(small.flatten(2))

        queries = self.query_feat.weight.expand(len(mask_features), -1, -1)
        positions = self.query_embed.weight
        predictions = [self._predict(queries)]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (cross_attention, self_attention, feed_forward) in enumerate(layers):
            level = index % _LEVELS
            attend = attended_cells(predictions[-1].embeddings, small_features[level])
            queries = cross_attention(queries, positions, keys[level], values[level], attend)
            queries = feed_forward(self_attention(queries, positions))
            predictions.append(self._predict(queries))
        return predictions

    def _predict(self, queries: Tensor) -> Prediction:
        normed = self.decoder_norm(queries)
        return Prediction(self.class_embed(normed), self.mask_embed(normed))


@torch.no_grad()
def attended_cells(embeddings: Tensor, features: Tensor) -> Tensor:
    """(B, Q, L) bool: the cells inside the predicted mask, or all cells for a query whose mask is empty.

    Args:
        embeddings: (B, Q, D), the queries' mask embeddings.
        features: (B, D, L), the mask features at the size of the map that is attended to.
    """
    inside = torch.bmm(embeddings, features) >= 0
    return inside | ~inside.any(dim=-1, keepdim=True)
