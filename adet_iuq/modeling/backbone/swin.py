"""Swin transformer as Mask2Former publishes it (docs/parity/mask2former.md, "Swin"): names, padding, four output norms."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from timm.layers import trunc_normal_
from torch import Tensor, nn, zeros

from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone.swin_parts import PatchEmbed, PatchMerging, SwinBlock, SwinLevel, WindowAttention

_LEVELS = ("res2", "res3", "res4", "res5")


@BACKBONE_REGISTRY.register()
class D2SwinTransformer(Backbone):
    """Swin-T, -S, -B, -L: "res2" to "res5" of strides 4 to 32 (patch 4), each of them behind a LayerNorm of its own."""

    @configurable
    def __init__(
        self,
        *,
        patch_size: int = 4,
        pretrain_img_size: int = 224,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.3,
        ape: bool = False,
        patch_norm: bool = True,
        out_features: Sequence[str] = _LEVELS,
        use_checkpoint: bool = False,
        freeze_at: int = 0,
    ) -> None:
        """The arguments are the keys of `MODEL.SWIN` (adet_iuq/config/swin.py).

        Raises:
            UserError: a level does not exist, or numbers do not fit each other.
        """
        super().__init__()
        _check(depths, num_heads, embed_dim, out_features, freeze_at)
        rates = [drop_path_rate * block / max(sum(depths) - 1, 1) for block in range(sum(depths))]
        depths = depths[: 1 + max(map(_LEVELS.index, out_features))]  # only the levels that are needed are built
        self.patch_embed = PatchEmbed(patch_size, embed_dim, patch_norm)
        self.pos_drop = nn.Dropout(drop_rate)
        if ape:
            side = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(trunc_normal_(zeros(1, embed_dim, side, side), std=0.02))
        self.layers = nn.ModuleList()
        for i, depth in enumerate(depths):
            channels = embed_dim * 2**i
            blocks = []
            for rate in rates[sum(depths[:i]) :][:depth]:
                drops = (attn_drop_rate, drop_rate)
                attn = WindowAttention(channels, window_size, num_heads[i], qkv_bias, qk_scale, drops)
                blocks.append(SwinBlock(attn, channels, mlp_ratio, drop_rate, rate))
            self.layers.append(SwinLevel(blocks, channels, window_size, i + 1 == len(depths), use_checkpoint))
            if _LEVELS[i] in out_features:
                self.add_module(f"norm{i}", nn.LayerNorm(channels))
        self._out_features = [name for name in _LEVELS if name in out_features]
        self._out_feature_channels = {name: embed_dim * 2**i for i, name in enumerate(_LEVELS)}
        self._out_feature_strides = {name: patch_size * 2**i for i, name in enumerate(_LEVELS)}
        self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        """The constructor's arguments: the keys of MODEL.SWIN in lower case."""
        return {name.lower(): value for name, value in cfg.MODEL.SWIN.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) to one map (B, channels, ceil(H / stride), ceil(W / stride)) per name."""
        x = self.patch_embed(x)
        if hasattr(self, "absolute_pos_embed"):
            position = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic", align_corners=False)
            x = x + position.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        outputs = {}
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if _LEVELS[i] in self._out_features:
                outputs[_LEVELS[i]] = getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2).contiguous()
            if isinstance(layer.downsample, PatchMerging):
                x = layer.downsample(x)
        return outputs

    @property
    def size_divisibility(self) -> int:
        """The published model pads its images to this multiple; the backbone itself takes any size."""
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every output."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }

    def _freeze(self, freeze_at: int) -> None:
        """Freezes nothing, the patch embedding, or also levels, each with its output norm and the step to the next level."""
        frozen: list[nn.Module] = [self.patch_embed] if freeze_at > 0 else []
        for i in range(min(freeze_at - 1, len(self.layers))):
            frozen += [self.layers[i], getattr(self, f"norm{i}", nn.Identity())]
        for module in frozen:
            module.requires_grad_(False)
        if freeze_at > 0 and hasattr(self, "absolute_pos_embed"):
            self.absolute_pos_embed.requires_grad_(False)


def _check(
    depths: Sequence[int], num_heads: Sequence[int], embed_dim: int, out_features: Sequence[str], freeze_at: int
) -> None:
    if not len(depths) == len(num_heads) == len(_LEVELS):
        raise UserError(f"MODEL.SWIN: DEPTHS {list(depths)} and NUM_HEADS {list(num_heads)} need four numbers each.")
    if any(embed_dim * 2**i % heads for i, heads in enumerate(num_heads)):
        raise UserError(f"MODEL.SWIN: EMBED_DIM {embed_dim} does not divide by NUM_HEADS {list(num_heads)}.")
    if not out_features or any(name not in _LEVELS for name in out_features):
        raise UserError(f"MODEL.SWIN.OUT_FEATURES is {list(out_features)}; it can name {', '.join(_LEVELS)}.")
    if not 0 <= freeze_at <= len(_LEVELS) + 1:
        raise UserError(f"MODEL.SWIN.FREEZE_AT is {freeze_at}; it can be 0 (nothing) to 5 (all levels).")
