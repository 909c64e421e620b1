"""torchvision's ResNets as detectron2 backbones, with the names that models of DETR's family give to their body."""

from typing import Any

import torchvision
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from adet_iuq.errors import UserError

_LEVELS = ("res2", "res3", "res4", "res5")
_DEPTHS = (18, 34, 50, 101, 152)
_NORMS: dict[str, type[nn.Module]] = {"FrozenBN": FrozenBatchNorm2d, "BN": nn.BatchNorm2d}


class TorchvisionResNet(Backbone):
    """`conv1`, `bn1`, `layer1` to `layer4`; the outputs of the last three are "res3", "res4", "res5"."""

    def __init__(self, depth: int, norm: str, freeze_at: int) -> None:
        """
        Args:
            depth: the depth of one of torchvision's networks.
            norm: "FrozenBN" or "BN".
            freeze_at: how much is frozen. 0: nothing; 1: `conv1` and `bn1`; 2: also `layer1` ... 5: all of it.

        Raises:
            UserError: there is no such network or norm.
        """
        super().__init__()
        if depth not in _DEPTHS or norm not in _NORMS:
            raise UserError(
                f"MODEL.RESNETS: torchvision has no ResNet of DEPTH {depth} with NORM {norm}; DEPTH can be one of "
                f"{', '.join(map(str, _DEPTHS))}, NORM {' or '.join(_NORMS)}."
            )
        network = vars(torchvision.models)[f"resnet{depth}"](weights=None, norm_layer=_NORMS[norm])
        for name, part in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, part)
        stages = [self.conv1, self.layer1, self.layer2, self.layer3, self.layer4]
        for stage in [self.bn1, *stages][: freeze_at + 1] if freeze_at > 0 else []:
            stage.requires_grad_(False)
        width = network.fc.in_features
        self._out_features = list(_LEVELS[1:])
        self._out_feature_channels = {name: width // 2 ** (3 - i) for i, name in enumerate(_LEVELS)}
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(_LEVELS)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) to one map (B, channels, ceil(H / stride), ceil(W / stride)) per name."""
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        outputs = {}
        for name, layer in zip(self._out_features, (self.layer2, self.layer3, self.layer4), strict=True):
            x = outputs[name] = layer(x)
        return outputs


@BACKBONE_REGISTRY.register()
def build_torchvision_resnet_backbone(cfg: CfgNode, input_shape: Any) -> TorchvisionResNet:
    """The network of MODEL.RESNETS.DEPTH and NORM, frozen as MODEL.BACKBONE.FREEZE_AT says."""
    return TorchvisionResNet(cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT)
