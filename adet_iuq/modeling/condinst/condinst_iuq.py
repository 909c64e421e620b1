"""CondInst trained with instance-unique querying (docs/parity/condinst.md, "Instance-unique querying")."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling.condinst.condinst import CondInst
from adet_iuq.modeling.condinst.mask_head import DynamicQueries
from adet_iuq.modeling.iuq_meta_arch import IUQMetaArch

# Extras of a memory pixel that describe its own instance: the place where that instance's query would sit, and its scale.
REFERENCE: dict[str, tuple[int, ...]] = {"reference_location": (2,), "reference_scale": ()}
REL_COORDS = ("query", "instance")


@META_ARCH_REGISTRY.register()
class CondInstIUQ(IUQMetaArch, CondInst):
    """CondInst with `loss_inter` and `loss_equi`; its weights and its evaluation are CondInst's.

    Queries are the 169 numbers of FCOS's positives with their location and scale. Pixels are the mask branch's 8
    channels with their position. <q, i> is the dynamic mask head's output before its upsampling.
    """

    @configurable
    def __init__(self, *, rel_coords: str = "query", **iuq: Any) -> None:
        """
        Args:
            rel_coords: "query": the position of a memory pixel is its own position in its image, relative to the query;
                "instance": it is its position relative to its own instance, and the memory has the context `REFERENCE`.
            iuq: the arguments of `IUQMetaArch` and `CondInst`.

        Raises:
            ValueError: `rel_coords` is unknown, or the memory lacks that context.
        """
        super().__init__(**iuq)
        if rel_coords not in REL_COORDS:
            raise ValueError(f"Unknown rel_coords '{rel_coords}'; choose one of {', '.join(REL_COORDS)}.")
        memory = self.iuq_criterion.memory
        if rel_coords == "instance" and memory is not None and memory.context_shapes != REFERENCE:
            raise ValueError('rel_coords "instance" needs PixelMemory(..., context=REFERENCE).')
        self.instance_coordinates = rel_coords == "instance"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The segmenter's arguments, and MODEL.IUQ.INTER.REL_COORDS.

        Raises:
            UserError: the method does not know a value.
        """
        rel_coords = cfg.MODEL.IUQ.INTER.REL_COORDS
        if rel_coords not in REL_COORDS:
            raise UserError(f'MODEL.IUQ.INTER.REL_COORDS is "{rel_coords}"; it can be {" or ".join(REL_COORDS)}.')
        return {**super().from_config(cfg), "rel_coords": rel_coords}

    @classmethod
    def memory_arguments(cls, cfg: CfgNode, base: Mapping[str, Any]) -> dict[str, Any]:
        """The dense map's channels, and the context if REL_COORDS needs it."""
        context = REFERENCE if cfg.MODEL.IUQ.INTER.REL_COORDS == "instance" else {}
        return {"pixel_dim": base["mask_head"].feature_channels, "context": context}

    @classmethod
    def mask_loss_factor(cls, cfg: CfgNode, base: Mapping[str, Any]) -> float:
        """The weight of the base's mask loss, which `mask_loss` leaves out."""
        return float(base["mask_weight"])

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits of the dynamic head on stride-8 cells, without upsampling."""
        relative = None
        if self.instance_coordinates:
            scale = pixels.context["reference_scale"][:, None]
            relative = (pixels.context["reference_location"] - pixels.locations) / scale
        return self.mask_head.retrieve(_dynamic(queries), pixels.features, pixels.locations, relative)

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits of every query on its own image's map, at nominal positions of that map's grid."""
        return self.mask_head.retrieve_map(_dynamic(queries), queries.image_index, maps)

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """CondInst's dice loss at its mask stride; pixels interpolated from a cell outside `valid` are left out."""
        return self.mask_loss_on(logits, scene.queries.image_index, scene.queries.target_index, scene.masks, valid)


def _dynamic(queries: Queries) -> DynamicQueries:
    return DynamicQueries(queries.embeddings, queries.context["location"], queries.context["scale"])
