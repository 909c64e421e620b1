"""Any timm `features_only` model as a detectron2 backbone.

timm's weights expect RGB images scaled by the mean and deviation of ImageNet. To use them set INPUT.FORMAT "RGB",
MODEL.PIXEL_MEAN [123.675, 116.28, 103.53] and MODEL.PIXEL_STD [58.395, 57.12, 57.375].
Weights that come as packages (checkpoint/pretrained.py) expect another scale, which they state.
"""

import difflib
from typing import Any

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from adet_iuq.errors import UserError

# Outputs are named after their stride, as detectron2's ResNets do.
_NAMES = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


class TimmBackbone(Backbone):
    """The levels of strides 4, 8, 16 and 32 as "res2" to "res5", channels first."""

    @configurable
    def __init__(
        self,
        *,
        name: str,
        pretrained: bool,
        freeze_at: int,
        norm_frozen: bool,
        checkpointing: bool,
        drop_path_rate: float,
    ) -> None:
        """
        Args:
            name: the name of a timm model.
            pretrained: whether to download and load timm's own weights.
            freeze_at: how much is frozen. 0: nothing; 1: what comes before "res2"; 2: also "res2" ... 5: all of it. The
                BatchNorm layers in frozen parts keep their statistics.
            norm_frozen: whether all BatchNorm layers keep their statistics and weights.
            checkpointing: whether activations are recomputed in the backward pass.
            drop_path_rate: the rate of stochastic depth; 0: the model's default.

        Raises:
            UserError: there is no such model; it has no feature levels of these strides; it takes images of one size
                only; it lacks an option that is asked for; its weights cannot be downloaded.
        """
        super().__init__()
        self.model = _create(name, pretrained, drop_path_rate)
        info = self.model.feature_info
        reductions = info.reduction()
        # If several levels have the same stride, the last one counts.
        self._indices = {_NAMES[stride]: index for index, stride in enumerate(reductions) if stride in _NAMES}
        if len(self._indices) < 2:
            raise UserError(
                f"timm's {name} has levels of the strides {reductions}; a pyramid needs some of 4, 8, 16, 32."
            )
        self._out_features = list(self._indices)
        self._out_feature_channels = {n: info.channels()[i] for n, i in self._indices.items()}
        self._out_feature_strides = {n: reductions[i] for n, i in self._indices.items()}
        self._norm_frozen = norm_frozen
        self._check_image_sizes(name)
        if checkpointing:
            self._enable_checkpointing(name)
        self._freeze(name, freeze_at)
        self.train()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from MODEL.TIMM."""
        options = cfg.MODEL.TIMM
        return {
            "name": options.NAME,
            "pretrained": options.PRETRAINED,
            "freeze_at": options.FREEZE_AT,
            "norm_frozen": options.NORM_FROZEN,
            "checkpointing": options.CHECKPOINTING,
            "drop_path_rate": options.DROP_PATH_RATE,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) to one map (B, channels, H / stride, W / stride) per name."""
        maps = self.model(x)
        return {name: self._channels_first(maps[index], name) for name, index in self._indices.items()}

    @property
    def size_divisibility(self) -> int:
        """The largest stride, because patches and windows cannot be cut: images are padded to multiples of it."""
        return max(self._out_feature_strides.values())

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every output."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Switches the mode, except that frozen norms, and norms in frozen levels, stay in evaluation mode."""
        super().train(mode)
        for norm in self._batch_norms():
            parameters = list(norm.parameters())
            if self._norm_frozen or (parameters and not any(p.requires_grad for p in parameters)):
                norm.eval()
        return self

    def _channels_first(self, maps: Tensor, name: str) -> Tensor:
        network: Any = self.model  # timm's network; it has the attribute only if its maps may be channels-last
        channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
        return maps.permute(0, 3, 1, 2).contiguous() if channels_last else maps

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    @torch.no_grad()
    def _check_image_sizes(self, name: str) -> None:
        """Reports a model whose windows or position embeddings are made for one image size before the training starts."""
        self.eval()
        side = self.size_divisibility
        try:
            self(torch.zeros(1, 3, 2 * side, 3 * side))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"timm's {name} does not take images of any size ({error}). Choose a model that does, for example a "
                "convnext_*, swin_*, resnet* or pvt_v2_* in MODEL.TIMM.NAME."
            ) from error

    def _enable_checkpointing(self, name: str) -> None:
        try:
            self.model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise UserError(
                f"timm's {name} cannot recompute activations: set MODEL.TIMM.CHECKPOINTING False."
            ) from error

    def _freeze(self, name: str, freeze_at: int) -> None:
        if self._norm_frozen:
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        if freeze_at <= 0:
            return
        # Parameters are registered in the order of the forward pass: freeze up to the last one of the chosen level.
        names = [parameter for parameter, _ in self.model.named_parameters()]
        levels = {}
        for level, index in self._indices.items():
            module = self.model.feature_info.module_name(index)
            prefixes = (module + ".", module.replace(".", "_") + ".")
            levels[level] = [position for position, n in enumerate(names) if n.startswith(prefixes)]
        level = f"res{freeze_at}" if freeze_at > 1 else next(iter(levels))
        if not levels.get(level):
            raise UserError(
                f"timm's {name} has no level {level} to freeze up to; MODEL.TIMM.FREEZE_AT counts 1 (stem), "
                f"then {', '.join(f'{n[-1]} ({n})' for n in levels)}."
            )
        end = levels[level][-1] + 1 if freeze_at > 1 else levels[level][0]
        frozen = set(names[:end])
        for parameter_name, parameter in self.model.named_parameters():
            parameter.requires_grad_(parameter_name not in frozen and parameter.requires_grad)


def _create(name: str, pretrained: bool, drop_path_rate: float) -> Any:
    """The timm model, told to accept images of any size if it has an argument for that."""
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        hint = f" Did you mean {', '.join(near)}?" if near else " See timm.list_models()."
        raise UserError(f'MODEL.TIMM.NAME "{name}" is not a timm model.{hint}')
    options: dict[str, Any] = {"features_only": True, "pretrained": pretrained}
    if drop_path_rate > 0:
        options["drop_path_rate"] = drop_path_rate
    # Models with windows or position embeddings name this argument differently; most models do not need it.
    errors = []
    ways: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})
    for any_size in ways:
        try:
            return timm.create_model(name, **options, **any_size)
        except TypeError as error:
            errors.append(str(error))
        except (RuntimeError, OSError, torch.serialization.pickle.UnpicklingError) as error:
            raise UserError(f"timm cannot make {name}: {error}") from error
    raise UserError(f"timm cannot make {name} with these options ({errors[-1]}). See MODEL.TIMM.")


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The timm model `MODEL.TIMM.NAME` without a pyramid, for `MODEL.BACKBONE.NAME`."""
    return TimmBackbone(cfg)
