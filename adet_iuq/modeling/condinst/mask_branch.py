"""The mask branch: the dense map I of the paper's Eq. 4, with CondInst's optional semantic loss."""

import math
from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.layers import aligned_bilinear, focal_loss_sum, loss_count


def _block(in_channels: int, channels: int, norm: str) -> nn.Sequential:
    """3x3 convolution, norm, ReLU; the convolution has a bias only if there is no norm."""
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=not norm)
    weight_init.c2_xavier_fill(conv)  # this is the uniform Kaiming initialisation with a = 1
    layer = get_norm(norm, channels)
    return nn.Sequential(conv, *([layer] if layer is not None else []), nn.ReLU())


class MaskBranch(nn.Module):
    """Merges p3, p4, p5 into a map of `out_channels` channels at the stride of p3; its last layer is linear."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        in_features: Sequence[str],
        strides: Sequence[int],
        channels: int,
        num_convs: int,
        out_channels: int,
        norm: str,
        semantic_classes: int | None,
        focal: tuple[float, float],
        prior_prob: float,
        reduce_normalizer: bool = False,
    ) -> None:
        """
        Args:
            in_channels: the channels of the feature maps.
            in_features: the names of the feature maps, finest first.
            strides: the strides of the feature maps in pixels.
            channels: the channels inside the branch.
            num_convs: the length of the tower.
            out_channels: the channels D of the result.
            norm: the norm by detectron2's names: "BN", "GN", "" ...
            semantic_classes: the number of classes of the semantic loss; None: no semantic loss.
            focal: alpha and gamma of the semantic loss.
            prior_prob: the class probability that the semantic loss starts from.
            reduce_normalizer: whether the semantic loss counts the positive cells of all ranks.
        """
        super().__init__()
        self.in_features = list(in_features)
        self.factors = [stride // strides[0] for stride in strides]
        self.stride, self.out_channels = strides[0], out_channels
        self.refine = nn.ModuleList(_block(c, channels, norm) for c in in_channels)
        tower: list[nn.Module] = [_block(channels, channels, norm) for _ in range(num_convs)]
        self.tower = nn.Sequential(*tower, nn.Conv2d(channels, max(out_channels, 1), 1))
        self.semantic_classes, self.focal = semantic_classes, tuple(focal)
        self.reduce_normalizer = reduce_normalizer
        if semantic_classes is not None:
            self.seg_head = nn.Sequential(_block(in_channels[0], channels, norm), _block(channels, channels, norm))
            self.logits = nn.Conv2d(channels, semantic_classes, 1)
            nn.init.constant_(self.logits.bias, -math.log((1 - prior_prob) / prior_prob))  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """The constructor's arguments from MODEL.CONDINST.MASK_BRANCH, for a backbone's maps `input_shape`.

        Raises:
            UserError: a value of these keys is unknown, or does not fit the others or the backbone.
        """
        branch = cfg.MODEL.CONDINST.MASK_BRANCH
        missing = [name for name in branch.IN_FEATURES if name not in input_shape]
        if missing:
            raise UserError(
                f"MODEL.CONDINST.MASK_BRANCH.IN_FEATURES names {missing}; the backbone offers {[*input_shape]}."
            )
        return {
            "in_channels": [input_shape[name].channels for name in branch.IN_FEATURES],
            "in_features": branch.IN_FEATURES,
            "strides": [input_shape[name].stride for name in branch.IN_FEATURES],
            "channels": branch.CHANNELS,
            "num_convs": branch.NUM_CONVS,
            "out_channels": branch.OUT_CHANNELS,
            "norm": branch.NORM,
            "semantic_classes": cfg.MODEL.FCOS.NUM_CLASSES if branch.SEMANTIC_LOSS_ON else None,
            "focal": (cfg.MODEL.FCOS.LOSS_ALPHA, cfg.MODEL.FCOS.LOSS_GAMMA),
            "prior_prob": cfg.MODEL.FCOS.PRIOR_PROB,
            "reduce_normalizer": cfg.MODEL.REDUCE_NORMALIZER,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """(B, D, Hp / stride, Wp / stride) from the backbone's maps."""
        merged: Tensor | None = None
        for name, refine, factor in zip(self.in_features, self.refine, self.factors, strict=True):
            refined = aligned_bilinear(refine(features[name]), factor)
            merged = refined if merged is None else merged + refined
        return self.tower(merged)

    def semantic_loss(self, features: dict[str, Tensor], masks: Sequence[Tensor], classes: Sequence[Tensor]) -> Tensor:
        """Focal loss of per-class maps (docs/parity/condinst.md, "Semantic loss").

        Args:
            features: the backbone's maps.
            masks: B x (K, H, W) bool, the ground truth.
            classes: B x (K,) long, the classes of the masks.

        Returns:
            A scalar, the sum over cells and classes divided by the number of positive cells.
        """
        logits = self.logits(self.seg_head(features[self.in_features[0]]))
        size = (logits.shape[2], logits.shape[3])
        target = torch.stack([_semantic_target(m, c, size, self.stride) for m, c in zip(masks, classes, strict=True)])
        image, row, column = torch.nonzero(target, as_tuple=True)
        channel = target[image, row, column] - 1
        index = ((image * logits.shape[1] + channel) * size[0] + row) * size[1] + column
        count, factor = loss_count(len(index), reduce=self.reduce_normalizer, device=logits.device)
        return focal_loss_sum(logits, index, *self.focal) * factor / count.clamp(min=1)


def _semantic_target(masks: Tensor, classes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(*size) long: class + 1 of the smallest instance that covers the cell's sample pixel; 0 if none does."""
    half = stride // 2
    covered = masks[:, half::stride, half::stride]
    covered = F.pad(covered, (0, size[1] - covered.shape[2], 0, size[0] - covered.shape[1]))
    if len(masks) == 0:
        return torch.zeros(size, dtype=torch.long, device=masks.device)
    areas = masks.sum((1, 2))
    area, smallest = torch.where(covered, areas[:, None, None], areas.max() + 1).min(0)
    return torch.where(area <= areas.max(), classes[smallest] + 1, 0)
