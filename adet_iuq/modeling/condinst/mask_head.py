"""The dynamic mask head: <q, I> of the paper's Eq. 4 for CondInst.

A query is a three-layer network of 1x1 convolutions (169 numbers) with a location and a scale. With relative
coordinates (loc_n - loc_p) / S_n the first layer is linear in what belongs to the query and in what belongs to the
pixel, so one matrix product over shared pixels serves all queries (docs/parity/condinst.md, "Dynamic head").

Shapes: N queries, P pixels, D feature channels, C channels of the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from adet_iuq.errors import UserError
from adet_iuq.modeling.condinst.dynamic_layers import dynamic_layers


@dataclass
class DynamicQueries:
    """N queries: parameters (N, num_params), locations (N, 2) in input pixels, scales (N,) in pixels."""

    params: Tensor
    locations: Tensor
    scales: Tensor

    def __getitem__(self, index: Tensor) -> "DynamicQueries":
        return DynamicQueries(self.params[index], self.locations[index], self.scales[index])


def query_controller(in_channels: int, num_params: int) -> nn.Conv2d:
    """The convolution that predicts the queries, initialised as published.

    Args:
        in_channels: the channels of the box features.
        num_params: the numbers of a query, `DynamicMaskHead.num_params` (169 with the published head).
    """
    controller = nn.Conv2d(in_channels, num_params, 3, padding=1)
    nn.init.normal_(controller.weight, std=0.01)
    nn.init.zeros_(controller.bias)  # type: ignore[arg-type]
    return controller


class DynamicMaskHead(nn.Module):
    """Decodes masks with predicted networks; it has no learned parameters of its own."""

    sizes_of_interest: Tensor
    _iter: Tensor

    @configurable
    def __init__(
        self,
        *,
        feature_channels: int,
        feature_stride: int,
        channels: int,
        num_layers: int,
        relative_coordinates: bool,
        sizes_of_interest: Sequence[int],
        out_stride: int,
    ) -> None:
        """
        Args:
            feature_channels: the channels D of the dense map.
            feature_stride: the stride of the dense map in pixels.
            channels: the channels C of the hidden layers.
            num_layers: the number of layers of a query's network.
            relative_coordinates: whether the network also reads the pixel's position relative to the query.
            sizes_of_interest: the bounds between the levels; they and twice the last one are the queries' scales.
            out_stride: the stride of the masks in the loss and of the probabilities, a divisor of `feature_stride`.

        Raises:
            UserError: `out_stride` does not divide `feature_stride`.
        """
        super().__init__()
        if feature_stride % out_stride:
            raise UserError(f"MODEL.CONDINST.MASK_OUT_STRIDE {out_stride} must divide {feature_stride}.")
        self.feature_channels, self.feature_stride, self.out_stride = feature_channels, feature_stride, out_stride
        self.coordinates = 2 if relative_coordinates else 0
        widths = [feature_channels + self.coordinates] + [channels] * (num_layers - 1) + [1]
        self.shapes = list(zip(widths[1:], widths[:-1], strict=True))
        self.num_params = sum(out * (inner + 1) for out, inner in self.shapes)
        # Both buffers exist only so that the checkpoints equal the published ones.
        self.register_buffer("sizes_of_interest", torch.tensor([*sizes_of_interest, sizes_of_interest[-1] * 2]))
        self.register_buffer("_iter", torch.zeros(1))

    @classmethod
    def from_config(cls, cfg: CfgNode, feature_stride: int) -> dict:
        """The constructor's arguments from MODEL.CONDINST; `feature_stride` is that of the mask features, in pixels."""
        condinst = cfg.MODEL.CONDINST
        return {
            "feature_channels": condinst.MASK_BRANCH.OUT_CHANNELS,
            "feature_stride": feature_stride,
            "channels": condinst.MASK_HEAD.CHANNELS,
            "num_layers": condinst.MASK_HEAD.NUM_LAYERS,
            "relative_coordinates": not condinst.MASK_HEAD.DISABLE_REL_COORDS,
            "sizes_of_interest": cfg.MODEL.FCOS.SIZES_OF_INTEREST,
            "out_stride": condinst.MASK_OUT_STRIDE,
        }

    @property
    def factor(self) -> int:
        """The upsampling factor from the dense map to the masks of the loss."""
        return self.feature_stride // self.out_stride

    def scales(self, levels: Tensor) -> Tensor:
        """(N,) float scales, in pixels, of queries on the given levels."""
        return self.sizes_of_interest[levels].float()

    def cell_locations(self, size: tuple[int, int]) -> Tensor:
        """(h * w, 2) nominal positions of the dense map's cells, row by row, in pixels of the network input."""
        device = self.sizes_of_interest.device
        y, x = (
            torch.arange(n, device=device, dtype=torch.float32) * self.feature_stride + self.feature_stride // 2
            for n in size
        )
        return torch.stack([x.repeat(size[0]), y.repeat_interleave(size[1])], dim=1)

    def retrieve(
        self, queries: DynamicQueries, features: Tensor, locations: Tensor, relative: Tensor | None = None
    ) -> Tensor:
        """The logits of every query on every pixel.

        Args:
            queries: N queries.
            features: (P, D), the pixels' channels.
            locations: (P, 2), the pixels' positions in the network input.
            relative: (P, 2) relative coordinates, the same for all queries, which replace
                (query location - pixel location) / scale; None: computed from `locations`.

        Returns:
            (N, P) logits, at least float32 even under autocast, because float16 cannot hold positions of up to a
            thousand pixels exactly enough.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = _at_least_float32(features)
            weights, biases = self._split(queries.params.to(features.dtype))
            inputs = features.T
            if self.coordinates and relative is not None:
                inputs = torch.cat([relative.to(features.dtype).T, inputs])
            elif self.coordinates:
                # The query's share of the first layer moves into its bias. Two large terms cancel there: a common
                # origin keeps both of them small.
                origin = queries.locations.mean(0) if len(queries.params) else queries.locations.new_zeros(2)
                position = weights[0][:, :, :2] / queries.scales.to(features.dtype)[:, None, None]
                offset = (queries.locations - origin).to(features.dtype)
                biases[0] = biases[0] + (position @ offset[:, :, None])[:, :, 0]
                weights[0] = torch.cat([-position, weights[0][:, :, 2:]], dim=2)
                inputs = torch.cat([(locations - origin).to(features.dtype).T, inputs])
            return dynamic_layers(inputs, weights, biases)

    def retrieve_map(self, queries: DynamicQueries, image_index: Tensor, maps: Tensor) -> Tensor:
        """The logits of every query on all cells of its own image's map.

        Args:
            queries: N queries.
            image_index: (N,) long, the number of each query's map.
            maps: (B, D, h, w), the dense maps.

        Returns:
            (N, h, w) logits.
        """
        size = (maps.shape[2], maps.shape[3])
        locations = self.cell_locations(size)
        order = torch.argsort(image_index, stable=True)
        counts = torch.bincount(image_index, minlength=len(maps)).tolist()
        parts = [
            self.retrieve(queries[index], features.flatten(1).T, locations)
            for index, features in zip(order.split(counts), maps, strict=True)
        ]
        logits = torch.cat(parts)
        if len(maps) > 1:
            logits = logits[torch.argsort(order)]
        return logits.view(-1, *size)

    def _split(self, params: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Weights (N, out, in) and biases (N, out) of all layers: all weights come first, then all biases."""
        sizes = [out * inner for out, inner in self.shapes] + [out for out, _ in self.shapes]
        parts = params.split(sizes, dim=1)
        weights = [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=False)]
        return weights, list(parts[len(self.shapes) :])


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
