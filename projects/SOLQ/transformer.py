"""The transformer of Deformable DETR (arXiv 2010.04159) with boxes that are refined from layer to layer.

Shapes: B images, S cells of L maps, N queries, C channels, E encoder layers, D decoder layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.modeling.layers import MSDeformAttn

from .boxes import logit
from .maps import MapGeometry, sine_positions


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a transformer; names and meanings are those of MODEL.SOLQ."""

    hidden_dim: int
    dim_feedforward: int
    nheads: int
    enc_layers: int
    dec_layers: int
    num_points: int
    dropout: float

    def deformable(self, levels: int) -> MSDeformAttn:
        """A deformable attention on `levels` maps."""
        return MSDeformAttn(self.hidden_dim, levels, self.nheads, self.num_points)


class MLP(nn.Module):
    """Linear layers with a ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., first width) to (..., last width)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class EncoderLayer(nn.Module):
    """A layer in which cells read cells of all maps."""

    def __init__(self, sizes: Sizes, levels: int) -> None:
        super().__init__()
        self.self_attn = sizes.deformable(levels)
        self.norm1 = nn.LayerNorm(sizes.hidden_dim)
        self.linear1 = nn.Linear(sizes.hidden_dim, sizes.dim_feedforward)
        self.linear2 = nn.Linear(sizes.dim_feedforward, sizes.hidden_dim)
        self.norm2 = nn.LayerNorm(sizes.hidden_dim)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self, cells: Tensor, positions: Tensor, reference: Tensor, sizes: Sequence[tuple[int, int]], padding: Tensor
    ) -> Tensor:
        """Cells (B, S, C) after the layer; `Transformer.forward` describes the arguments."""
        attended = self.self_attn(cells + positions, reference, cells, sizes, padding)
        cells = self.norm1(cells + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(cells)))
        normed: Tensor = self.norm2(cells + self.dropout(self.linear2(hidden)))
        return normed


class DecoderLayer(nn.Module):
    """Queries read each other, then the maps around their references. As published, the first step's norm is `norm2`."""

    def __init__(self, sizes: Sizes, levels: int) -> None:
        super().__init__()
        width = sizes.hidden_dim
        self.cross_attn = sizes.deformable(levels)
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, sizes.nheads, dropout=sizes.dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, sizes.dim_feedforward)
        self.linear2 = nn.Linear(sizes.dim_feedforward, width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        reference: Tensor,
        memory: Tensor,
        sizes: Sequence[tuple[int, int]],
        padding: Tensor,
    ) -> Tensor:
        """Queries (B, N, C) after the layer, with positions (B, N, C) and references (B, N, L, 2 or 4)."""
        placed = queries + positions
        attended = self.self_attn(placed, placed, queries, need_weights=False)[0]
        queries = self.norm2(queries + self.dropout(attended))
        attended = self.cross_attn(queries + positions, reference, memory, sizes, padding)
        queries = self.norm1(queries + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(queries)))
        normed: Tensor = self.norm3(queries + self.dropout(self.linear2(hidden)))
        return normed


class Encoder(nn.Module):
    """E layers, one after the other."""

    def __init__(self, sizes: Sizes, levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(sizes, levels) for _ in range(sizes.enc_layers))


class Decoder(nn.Module):
    """D layers. Each of them refines the boxes of the layer before with a box head of its own."""

    def __init__(self, sizes: Sizes, levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(sizes, levels) for _ in range(sizes.dec_layers))
        self.bbox_embed = nn.ModuleList()  # as published, it also contains the heads of the model

    def forward(
        self, queries: Tensor, positions: Tensor, points: Tensor, memory: Tensor, geometry: MapGeometry
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Queries (B, N, C) and boxes (B, N, 4), x, y, w, h as shares of the image, after every layer.

        Args:
            queries: (B, N, C), the content of the queries.
            positions: (B, N, C), their positions.
            points: (B, N, 2), the points that the queries first look at.
            memory: (B, S, C), the encoded cells.
            geometry: the geometry of the maps.
        """
        ratios, padding = geometry.valid_ratios()[:, None], geometry.padding
        states, boxes = [], []
        reference = points
        for layer, head in zip(self.layers, self.bbox_embed, strict=True):
            scaled = reference[:, :, None] * ratios.repeat(1, 1, 1, reference.shape[-1] // 2)
            queries = layer(queries, positions, scaled, memory, geometry.sizes, padding)
            with torch.autocast(queries.device.type, enabled=False):  # half precision would round boxes to whole pixels
                # A point has no size yet, so (w, h) of the first boxes come from the head alone.
                before = F.pad(logit(reference), (0, 4 - reference.shape[-1]))
                boxes.append((head(queries.float()) + before).sigmoid())
            states.append(queries)
            reference = boxes[-1].detach()
        return states, boxes


class Transformer(nn.Module):
    """Encodes maps, and decodes queries that have read them."""

    def __init__(self, sizes: Sizes, levels: int) -> None:
        super().__init__()
        self.channels = sizes.hidden_dim
        self.encoder, self.decoder = Encoder(sizes, levels), Decoder(sizes, levels)
        self.level_embed = nn.Parameter(torch.empty(levels, sizes.hidden_dim))
        self.reference_points = nn.Linear(sizes.hidden_dim, 2)
        self._reset()

    def _reset(self) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, MSDeformAttn):
                module.reset_parameters()
        nn.init.zeros_(self.reference_points.bias)
        nn.init.normal_(self.level_embed)

    def positions(self, geometry: MapGeometry) -> Tensor:
        """(B, S, C), an encoding of each cell's place and map."""
        per_level = zip(geometry.inside, self.level_embed, strict=True)
        return torch.cat([sine_positions(one, self.channels) + level for one, level in per_level], dim=1)

    def encode(self, maps: Sequence[Tensor], geometry: MapGeometry) -> Tensor:
        """Memory (B, S, C), finest map first, of maps L x (B, C, h_l, w_l)."""
        cells = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)
        positions, reference, padding = self.positions(geometry), geometry.references(), geometry.padding
        for layer in self.encoder.layers:
            cells = layer(cells, positions, reference, geometry.sizes, padding)
        return cells

    def decode(self, memory: Tensor, query_embed: Tensor, geometry: MapGeometry) -> tuple[list[Tensor], list[Tensor]]:
        """The result of `Decoder.forward` for learned queries (N, 2 C), which are first a position, then a content."""
        positions, queries = (part.expand(len(memory), -1, -1) for part in query_embed.chunk(2, dim=1))
        with torch.autocast(positions.device.type, enabled=False):
            points = self.reference_points(positions).sigmoid()
        states: tuple[list[Tensor], list[Tensor]] = self.decoder(queries, positions, points, memory, geometry)
        return states
