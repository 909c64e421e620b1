"""Mask2Former trained with instance-unique querying (docs/parity/mask2former.md, "Instance-unique querying")."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling.iuq_meta_arch import IUQMetaArch
from adet_iuq.modeling.iuq_settings import settings_from
from adet_iuq.modeling.layers import dot_product_maps, loss_count
from adet_iuq.modeling.mask2former import mask_losses
from adet_iuq.modeling.mask2former.mask2former import MaskFormer

QUERY_LAYERS = ("last", "all")


@dataclass(frozen=True, kw_only=True)
class ViewLoss:
    """L_mask of Eq. 8; names and meanings are those of MODEL.IUQ.MASK_FORMER."""

    equi_mask_loss: str = "bce"
    equi_mask_weight: float = 5.0
    equi_dice_weight: float = 5.0
    equi_focal_alpha: float = 0.25
    equi_focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.equi_mask_loss not in ("bce", "focal"):
            raise ValueError(f"Unknown equi_mask_loss '{self.equi_mask_loss}'; choose bce or focal.")

    def total(self, logits: Tensor, wanted: Tensor, counting: Tensor | None) -> Tensor:
        """The weighted sum over queries of the losses of mask logits (Q, points), at points where `counting` is set."""
        if self.equi_mask_loss == "bce":
            point_loss = mask_losses.cross_entropy(logits, wanted, counting)
        else:
            point_loss = mask_losses.focal(logits, wanted, self.equi_focal_alpha, self.equi_focal_gamma, counting)
        dice_loss = mask_losses.dice(logits, wanted, counting)
        return self.equi_mask_weight * point_loss.sum() + self.equi_dice_weight * dice_loss.sum()


@META_ARCH_REGISTRY.register()
class MaskFormerIUQ(IUQMetaArch, MaskFormer):
    """Mask2Former with `loss_inter` and `loss_equi`; its weights and its evaluation are Mask2Former's.

    Queries are the mask embeddings of matched queries, pixels are the cells of the mask features, <q, i> is a dot product.
    """

    @configurable
    def __init__(
        self, *, view_loss: ViewLoss, query_layers: str = "last", stuff_instances: bool = False, **iuq: Any
    ) -> None:
        """
        Args:
            view_loss: L_mask of the equivariance term.
            query_layers: "last": the matched queries of the last prediction; "all": those of all predictions with losses.
            stuff_instances: whether stuff segments count as instances.
            iuq: the arguments of `IUQMetaArch` and `MaskFormer`.

        Raises:
            ValueError: `query_layers` is unknown.
        """
        super().__init__(**iuq)
        if query_layers not in QUERY_LAYERS:
            raise ValueError(f"Unknown query_layers '{query_layers}'; choose one of {', '.join(QUERY_LAYERS)}.")
        self.view_loss, self.query_layers, self.stuff_instances = view_loss, query_layers, stuff_instances

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The segmenter's arguments, and those of MODEL.IUQ.MASK_FORMER.

        Raises:
            UserError: the method does not know a value.
        """
        settings = cfg.MODEL.IUQ.MASK_FORMER
        if settings.QUERY_LAYERS not in QUERY_LAYERS:
            raise UserError(
                f'MODEL.IUQ.MASK_FORMER.QUERY_LAYERS is "{settings.QUERY_LAYERS}"; it can be {" or ".join(QUERY_LAYERS)}.'
            )
        return {
            **super().from_config(cfg),
            "query_layers": settings.QUERY_LAYERS,
            "stuff_instances": settings.STUFF_INSTANCES,
            "view_loss": settings_from(ViewLoss, settings, "MODEL.IUQ.MASK_FORMER"),
        }

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        """The channels of the mask features."""
        return {"pixel_dim": base["sem_seg_head"].pixel_decoder.mask_channels}

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits of all pairs."""
        return queries.embeddings @ pixels.features.T

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits of every query on its own image's map."""
        return dot_product_maps(queries.embeddings, queries.image_index, maps)

    def base_mask_loss(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted cross-entropy and dice loss of the last prediction."""
        return losses["loss_mask"] + losses["loss_dice"]

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The published mask losses at random points, averaged over the queries, without points near invalid cells; in
        float32, as the criterion.

        Args:
            logits: (Q, Hf, Wf), one map per query.
            scene: the scene whose masks are the targets.
            valid: (B, Hf, Wf) bool, the cells that count.
        """
        queries = scene.queries
        order = torch.argsort(queries.image_index, stable=True)
        counts = torch.bincount(queries.image_index, minlength=len(scene)).tolist()
        frame = (logits.shape[1] * scene.stride, logits.shape[2] * scene.stride)
        sampled, wanted, counting = self.criterion.sample(
            logits[order].float(),
            queries.target_index[order],
            counts,
            scene.masks,
            frame,
            valid[queries.image_index[order]].float(),
        )
        total = self.view_loss.total(sampled, wanted, counting)
        count, factor = loss_count(len(logits), reduce=self.criterion.reduce_normalizer, device=logits.device)
        return total * factor / count.clamp(min=1)
