"""BiFPN: a pyramid whose levels are mixed upwards and downwards several times, with learned weights (EfficientDet,
arXiv 1911.09070), in the form and under the parameter names of the published CondInst recipes
(docs/parity/condinst.md, "BiFPN"). No published numbers are at hand: the names are as published, the arithmetic is unproven.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, NaiveSyncBatchNorm, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone.deformable import build_deformable_resnet

LEVELS = 5  # p3 to p7

# The nodes of one repetition in their order, each with the level that it computes and with its inputs. Inputs 0 to 4
# are the incoming levels; 5 and above are the nodes before it.
NODES = (
    (3, (3, 4)),
    (2, (2, 5)),
    (1, (1, 6)),
    (0, (0, 7)),
    (1, (1, 7, 8)),
    (2, (2, 6, 9)),
    (3, (3, 5, 10)),
    (4, (4, 11)),
)
_EPSILON = 1e-4


class ExtraLevels(Backbone):
    """A bottom-up network and two more levels: res6 with the pyramid's channels at half the size, res7 at a quarter."""

    def __init__(self, backbone: Backbone, in_features: Sequence[str], out_channels: int, norm: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.in_features = list(in_features)
        last = backbone.output_shape()[self.in_features[-1]]
        reduction = Conv2d(last.channels, out_channels, 1, bias=norm == "", norm=_norm(norm, out_channels))
        self.res6 = nn.ModuleDict({"reduction": reduction})
        self._shapes = {name: backbone.output_shape()[name] for name in self.in_features}
        for number, name in enumerate(("res6", "res7"), start=1):
            self._shapes[name] = ShapeSpec(channels=out_channels, stride=(last.stride or 1) * 2**number)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of res3 to res7, by name."""
        return dict(self._shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The (B, C, h, w) maps by name, from (B, 3, H, W) images."""
        maps = self.backbone(x)
        found = {name: maps[name] for name in self.in_features}
        found["res6"] = _half(self.res6["reduction"](found[self.in_features[-1]]))
        found["res7"] = _half(found["res6"])
        return found


class BiFPNLayer(nn.Module):
    """One repetition: five (B, C_l, h_l, w_l) maps become five maps of `out_channels`."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, norm: str) -> None:
        super().__init__()
        channels, levels = list(in_channels), list(range(LEVELS))
        self._laterals: set[str] = set()
        for level, inputs in NODES:
            for one in inputs:
                if channels[one] != out_channels:
                    lateral = f"lateral_{one}_f{level}"  # shared by the nodes of a level that read the same map
                    # As published, the convolution has a bias although a norm follows.
                    conv = Conv2d(channels[one], out_channels, 1, norm=_norm(norm, out_channels))
                    self.add_module(lateral, conv)
                    self._laterals.add(lateral)
            name = _name(level, inputs)
            self.register_parameter(f"weights_{name}", nn.Parameter(torch.ones(len(inputs))))
            output = Conv2d(out_channels, out_channels, 3, padding=1, bias=norm == "", norm=_norm(norm, out_channels))
            self.add_module(f"outputs_{name}", output)
            channels.append(out_channels)
            levels.append(level)
        self.last = [max(node for node, other in enumerate(levels) if other == level) for level in range(LEVELS)]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of levels 0 to 4, of growing stride, to maps of the same sizes."""
        nodes = list(maps)
        for level, inputs in NODES:
            name = _name(level, inputs)
            weights = F.relu(self.get_parameter(f"weights_{name}"))
            weights = weights / (weights.sum() + _EPSILON)
            read = [_resized(self._lateral(one, level, nodes[one]), maps[level].shape[-2:]) for one in inputs]
            mixed = torch.stack([weight * x for weight, x in zip(weights, read, strict=True)]).sum(dim=0)
            nodes.append(self.get_submodule(f"outputs_{name}")(F.silu(mixed)))
        return [nodes[node] for node in self.last]

    def _lateral(self, one: int, level: int, x: Tensor) -> Tensor:
        """One input of a node of `level`, brought to the pyramid's channels."""
        name = f"lateral_{one}_f{level}"
        found: Tensor = self.get_submodule(name)(x) if name in self._laterals else x
        return found


class BiFPN(Backbone):
    """Bottom-up network, two extra levels, and several `BiFPNLayer` over them; the maps are called p3 to p7."""

    def __init__(
        self, *, bottom_up: Backbone, in_features: Sequence[str], out_channels: int, num_repeats: int, norm: str
    ) -> None:
        """
        Args:
            bottom_up: the network that gives the maps of strides 8, 16 and 32.
            in_features: the names of these maps.
            out_channels: the channels of every map of the pyramid.
            num_repeats: how many times the levels are mixed.
            norm: the norm's name, as detectron2's `get_norm` takes it; "": none.
        """
        super().__init__()
        self.bottom_up = ExtraLevels(bottom_up, in_features, out_channels, norm)
        shapes = self.bottom_up.output_shape().values()
        first = [shape.channels for shape in shapes]
        self.repeated_bifpn = nn.ModuleList(
            BiFPNLayer([out_channels] * LEVELS if number else first, out_channels, norm)
            for number in range(num_repeats)
        )
        self._shapes = {
            f"p{(shape.stride or 1).bit_length() - 1}": ShapeSpec(channels=out_channels, stride=shape.stride)
            for shape in shapes
        }
        self._size_divisibility = max(shape.stride or 1 for shape in shapes)

    @property
    def size_divisibility(self) -> int:
        """The number of pixels whose multiples images are padded to, so that every level halves the one below."""
        return self._size_divisibility

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of p3 to p7, by name."""
        return dict(self._shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The (B, out_channels, H / stride, W / stride) maps by name, from (B, 3, H, W) images."""
        maps = list(self.bottom_up(x).values())
        for layer in self.repeated_bifpn:
            maps = layer(maps)
        return dict(zip(self._shapes, maps, strict=True))


def _name(level: int, inputs: Sequence[int]) -> str:
    return "_".join([f"f{level}", *map(str, inputs)])


def _norm(name: str, channels: int) -> nn.Module | None:
    # torch's own synchronised norm needs GPUs; detectron2's has the same parameters and takes any device.
    norm: nn.Module | None = NaiveSyncBatchNorm(channels) if name == "SyncBN" else get_norm(name, channels)
    return norm


def _half(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    """Resizes a map to the size of a neighbouring level: upwards by nearest neighbours, downwards by a 3x3 maximum."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="nearest") if x.shape[-2] < size[0] or x.shape[-1] < size[1] else _half(x)


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> BiFPN:
    """detectron2's ResNet under `MODEL.BiFPN`.

    Raises:
        UserError: the pyramid would not have five levels.
    """
    bottom_up = build_deformable_resnet(cfg, input_shape)
    features = cfg.MODEL.BiFPN.IN_FEATURES
    missing = [name for name in features if name not in bottom_up.output_shape()]
    if missing or len(features) + 2 != LEVELS or cfg.MODEL.FCOS.TOP_LEVELS != 2:
        raise UserError(
            f"MODEL.BiFPN.IN_FEATURES is {features} and MODEL.FCOS.TOP_LEVELS {cfg.MODEL.FCOS.TOP_LEVELS}; BiFPN has five "
            f"levels, three of {list(bottom_up.output_shape())} and two above."
        )
    return BiFPN(
        bottom_up=bottom_up,
        in_features=features,
        out_channels=cfg.MODEL.BiFPN.OUT_CHANNELS,
        num_repeats=cfg.MODEL.BiFPN.NUM_REPEATS,
        norm=cfg.MODEL.BiFPN.NORM,
    )
