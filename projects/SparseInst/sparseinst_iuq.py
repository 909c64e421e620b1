"""SparseInst trained with instance-unique querying (docs/parity/sparseinst.md, "Instance-unique querying")."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling import IUQMetaArch
from adet_iuq.modeling.layers import dot_product_maps, loss_count

from .criterion import dice_losses, pixel_losses
from .sparseinst import SparseInst
from .targets import enlarged, of_pairs, soft_masks


@META_ARCH_REGISTRY.register()
class SparseInstIUQ(IUQMetaArch, SparseInst):
    """SparseInst with `loss_inter` and `loss_equi`; its weights and its evaluation are SparseInst's.

    Queries are the kernels of matched queries, pixels are the cells
    of the mask features at stride 8, <q, i> is a dot product.
    """

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        """The channels of the mask features."""
        return {"pixel_dim": base["decoder"].kernel_dim}

    def mask_cells(self, masks: Tensor, map_size: tuple[int, int]) -> Tensor:
        """The cells for which the four soft targets around their centre have a mean above a half."""
        soft = soft_masks(masks, (2 * map_size[0], 2 * map_size[1]))
        return F.avg_pool2d(soft[:, None], 2)[:, 0] > 0.5

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits; the kernels are applied to pixels of other images as to those of their own."""
        return queries.embeddings @ pixels.features.T

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits of every query on its own image's map."""
        return dot_product_maps(queries.embeddings, queries.image_index, maps)

    def base_mask_loss(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted cross-entropy and dice loss."""
        return losses["loss_mask"] + losses["loss_dice"]

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """Both base mask losses with their weights, at stride 4, averaged over the queries.

        Two things are left out: pixels interpolated from a cell outside `valid` (also
        those of the padding, which the base loss counts), and queries whose instance
        has no pixel left, because their dice loss would be 1 whatever they retrieve.
        """
        queries = scene.queries
        size = (2 * logits.shape[1], 2 * logits.shape[2])
        wanted = of_pairs([soft_masks(one, size) for one in scene.masks], queries.image_index, queries.target_index)
        inside = (enlarged(valid.float()) > 1 - 1e-6)[queries.image_index]
        found = enlarged(logits)
        weights = self.criterion
        losses = weights.mask_pixel_weight * pixel_losses(found, wanted, inside)
        losses = losses + weights.mask_dice_weight * dice_losses(found, wanted, inside)
        visible = (wanted * inside).flatten(1).sum(1) > 0
        count, factor = loss_count(visible.sum(), reduce=weights.reduce_normalizer)
        return (losses * visible).sum() * factor / count.clamp(min=1)
