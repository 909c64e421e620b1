"""What grid segmenters offer to instance-unique querying (parity spec of SOLOv2, section 10; of SOTR, section 8)."""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling.grid import DICE_EPSILON, GridSegmenter, mask_logits, quarter_masks
from adet_iuq.modeling.layers import dice_losses, loss_count
from adet_iuq.modeling.query_segmenter import IUQMetaArch, scene_ids

STRIDE = 4


class GridSegmenterIUQ(IUQMetaArch, GridSegmenter):
    """Mixin that goes before a grid segmenter: `class SOLOv2IUQ(GridSegmenterIUQ, SOLOv2)`.

    Queries are the kernels of positive grid cells, several an instance, pixels the channels of the dense map; <q, i> is
    their dot product and needs no position beside them.
    """

    pixel_stride = STRIDE
    pixel_offset = (STRIDE - 1) / 2  # a cell of the map, as of the quarter-size masks, covers whole pixels

    def __init__(self, cfg: CfgNode) -> None:
        """Builds the base segmenter from `cfg`, then the criterion from `MODEL.IUQ`."""
        super().__init__(cfg)  # type: ignore[call-arg, misc]
        self.pixel_dim = self.mask_head.out_channels
        self.bytes_per_pair = 0
        self.init_iuq(cfg)

    def forward_scene(self, batched_inputs: list[dict[str, Any]]) -> tuple[Scene, dict[str, Tensor]]:
        """One forward pass in training: the scene and the base losses, exactly as published."""
        images = self.preprocess(batched_inputs)
        instances = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        losses, maps, queries, masks = self.training_pass(images, instances)
        scene = Scene(
            queries=Queries(queries.kernels, queries.image_index, queries.instance),
            features=maps.features,
            stride=self.pixel_stride,
            offset=self.pixel_offset,
            nominal_offset=self.pixel_offset,
            masks=masks,
            image_sizes=[(int(h), int(w)) for h, w in images.image_sizes],
            **scene_ids(batched_inputs, self.device),
        )
        return scene, losses

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits, the kernels on the pixels of other images as on their own."""
        return queries.embeddings @ pixels.features.T

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits of every query on its own image's map."""
        return mask_logits(queries.embeddings, queries.image_index, maps)

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The base dice loss, without its weight, over the cells in `valid`.

        Two things differ from the base loss on the same view, so that it is zero where queries and map are equivariant.
        The published quarter-size masks are stretched by up to half a cell where 4 does not divide the image's sides:
        here these are filled up first, and the mask's cells lie where g puts the map's. And a query of whose instance
        no cell can be seen is left out: its loss would be 1 whatever it retrieves.
        """
        size = (logits.shape[1], logits.shape[2])
        image, instance = scene.queries.image_index, scene.queries.target_index
        masks, areas = [], torch.zeros(len(image), device=logits.device)
        for index, mask in enumerate(scene.masks):
            filled_up = F.pad(mask, (0, -mask.shape[2] % STRIDE, 0, -mask.shape[1] % STRIDE))
            masks.append(quarter_masks(filled_up, size) * valid[index])
            mine = image == index
            areas[mine] = masks[-1].flatten(1).sum(1)[instance[mine]]
        losses = dice_losses(logits, image, instance, masks, valid, epsilon=DICE_EPSILON)
        visible = areas > 0
        count, factor = loss_count(visible.sum(), reduce=self.loss_settings.reduce_normalizer)
        return (losses * visible).sum() * factor / count.clamp(min=1)
