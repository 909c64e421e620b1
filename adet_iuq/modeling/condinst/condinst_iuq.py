"""CondInst trained with instance-unique querying (parity spec of CondInst, section 11)."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.iuq import PixelMemory, Pixels, Queries, Scene
from adet_iuq.modeling.condinst.condinst import CondInst, TrainingQueries
from adet_iuq.modeling.condinst.mask_head import DynamicQueries
from adet_iuq.modeling.layers import mask_centroids
from adet_iuq.modeling.query_segmenter import IUQMetaArch, scene_ids

# A pixel's own instance, as extras of a memory pixel: where the query of that instance would sit, and its scale.
_REFERENCE: dict[str, tuple[int, ...]] = {"reference_location": (2,), "reference_scale": ()}


@META_ARCH_REGISTRY.register()
class CondInstIUQ(IUQMetaArch, CondInst):
    """CondInst with `loss_inter` and `loss_equi`; its weights and its evaluation are CondInst's.

    Queries are the 169 numbers of FCOS's positives with their location and scale, pixels the mask branch's 8 channels
    with their position. <q, i> is the dynamic mask head before its upsampling.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Builds CondInst from `cfg`, then the criterion from `MODEL.IUQ`."""
        super().__init__(cfg)
        rel_coords = cfg.MODEL.IUQ.INTER.REL_COORDS
        if rel_coords not in ("query", "instance"):
            raise UserError(f'MODEL.IUQ.INTER.REL_COORDS is "{rel_coords}"; it can be "query" or "instance".')
        self.instance_coordinates = rel_coords == "instance"
        head = self.mask_head
        self.pixel_dim = head.feature_channels
        self.pixel_stride = head.feature_stride
        # Masks are sampled at s // 2 + s k, and cell i meets k = factor * i + factor // 2.
        self.pixel_offset = head.out_stride // 2 + head.out_stride * (head.factor // 2)
        # All layers' outputs, and in the backward pass the gradients of two of them beside these.
        self.bytes_per_pair = 4 * (sum(out for out, _ in head.shapes) + 2 * head.shapes[0][0])
        self.init_iuq(cfg)

    def build_memory(self, cfg: CfgNode) -> PixelMemory:
        """The memory; with REL_COORDS "instance" a pixel keeps where its own instance's query would sit."""
        return self._memory(cfg, _REFERENCE if self.instance_coordinates else None)

    def forward_scene(self, batched_inputs: list[dict[str, Any]]) -> tuple[Scene, dict[str, Tensor]]:
        """One forward pass in training: the scene and CondInst's losses, exactly as published."""
        images = self.preprocess(batched_inputs)
        instances = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        losses, mask_features, queries, masks = self.training_pass(images, instances)
        scene = Scene(
            queries=Queries(
                queries.dynamic.params,
                queries.image_index,
                queries.instance,
                {"location": queries.dynamic.locations, "scale": queries.dynamic.scales},
            ),
            features=mask_features,
            stride=self.pixel_stride,
            offset=self.pixel_offset,
            nominal_offset=self.pixel_stride // 2,
            masks=masks,
            image_sizes=[(int(h), int(w)) for h, w in images.image_sizes],
            instance_context=self._references(instances, masks) if self.instance_coordinates else {},
            **scene_ids(batched_inputs, self.device),
        )
        return scene, losses

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits of the dynamic head, stride-8 cells, no upsampling."""
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
        queries = TrainingQueries(_dynamic(scene.queries), scene.queries.image_index, scene.queries.target_index)
        return self.mask_loss_on(logits, queries, scene.masks, valid)

    def _references(self, instances: list[Instances], masks: list[Tensor]) -> dict[str, list[Tensor]]:
        """Centroid and scale of every instance; the scale is that of the level FCOS assigns to its centre."""
        scales = []
        for image in instances:
            boxes = image.gt_boxes.tensor
            half = (boxes[:, 2:] - boxes[:, :2]).amax(1) / 2
            levels = torch.bucketize(half, self.mask_head.sizes_of_interest[:-1].to(half.dtype))
            scales.append(self.mask_head.scales(levels))
        return {"reference_location": [mask_centroids(mask) for mask in masks], "reference_scale": scales}


def _dynamic(queries: Queries) -> DynamicQueries:
    return DynamicQueries(queries.embeddings, queries.context["location"], queries.context["scale"])
