"""The optimiser of a run: the learning rate and weight decay of each parameter, and the clipping of gradients."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from adet_iuq.errors import UserError

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
# Swin's tables of positions. They are plain parameters, not embedding modules, but are treated as embeddings.
_POSITIONS = ("relative_position_bias_table", "absolute_pos_embed")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """SOLVER.OPTIMIZER over the groups of `parameter_groups`, with SOLVER.CLIP_GRADIENTS.

    With CLIP_TYPE "full_model" (Mask2Former) the norm of all gradients together is clipped to CLIP_VALUE. This happens
    inside `step`, so after the unscaling of mixed precision. "value" and "norm" are detectron2's: they clip parameter
    by parameter.

    Raises:
        UserError: the optimiser or the clip type is unknown.
    """
    solver = cfg.SOLVER
    options: dict[str, Any] = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    kind: type[Optimizer]
    if solver.OPTIMIZER == "SGD":
        # `foreach` as in detectron2's main branch: the same values as without it, in fewer calls on a GPU.
        options |= {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV, "foreach": True}
        kind = SGD
    elif solver.OPTIMIZER == "ADAMW":
        kind = AdamW
    else:
        raise UserError(f'SOLVER.OPTIMIZER is "{solver.OPTIMIZER}"; it can be "SGD" or "ADAMW".')
    optimizer: Optimizer = _with_clipping(cfg, kind)(parameter_groups(cfg, model), **options)
    return optimizer


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """The trained parameters, each of them once, grouped by `lr` and `weight_decay`.

    The rules are detectron2's (WEIGHT_DECAY_NORM for norm layers, BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS for biases) and
    Mask2Former's: the rate is multiplied by BACKBONE_MULTIPLIER in modules with "backbone" in their name, embeddings have
    WEIGHT_DECAY_EMBED, Swin's tables of positions have no decay. LR_MULTIPLIERS gives factors for other parts of names.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            rates = _rate_and_decay(cfg, module_name, module, name)
            groups.setdefault(rates, []).append(parameter)
    return [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]


def _rate_and_decay(cfg: CfgNode, module_name: str, module: nn.Module, name: str) -> tuple[float, float]:
    solver = cfg.SOLVER
    lr, decay = solver.BASE_LR, solver.WEIGHT_DECAY
    if isinstance(module, _NORMS) and solver.WEIGHT_DECAY_NORM is not None:
        decay = solver.WEIGHT_DECAY_NORM
    if isinstance(module, nn.Embedding):
        decay = solver.WEIGHT_DECAY_EMBED
    if name in _POSITIONS:
        decay = 0.0
    if name == "bias":
        lr *= solver.BIAS_LR_FACTOR
        decay = decay if solver.WEIGHT_DECAY_BIAS is None else solver.WEIGHT_DECAY_BIAS
    if "backbone" in module_name:
        lr *= solver.BACKBONE_MULTIPLIER
    for part, factor in solver.LR_MULTIPLIERS:
        lr *= factor if part in module_name else 1.0
    return lr, decay


def _with_clipping(cfg: CfgNode, kind: type[Optimizer]) -> Any:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE == "full_model":
        return _full_model_clipping(kind, clip.CLIP_VALUE, clip.NORM_TYPE)
    try:
        return maybe_add_gradient_clipping(cfg, kind)
    except ValueError as error:
        raise UserError(
            f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "{clip.CLIP_TYPE}"; it can be "full_model", "value" or "norm".'
        ) from error


def _full_model_clipping(kind: Any, max_norm: float, norm_type: float) -> Any:
    class FullModelClipping(kind):
        def step(self, closure: Any = None) -> Any:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
            return super().step(closure)

    FullModelClipping.__name__ = f"{kind.__name__}WithFullModelClipping"
    return FullModelClipping
