"""What SOLOv2 and SOTR have in common: the cells of grids over the image are the queries of a dense map at stride 4.

Shapes: B images, L levels, S_l cells along each side of level l, N cells of all levels, P pairs of a positive cell and its
instance, D channels of queries and map, C classes, (Hp, Wp) padded input.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.grid.inference import GridDetection, GridResults, mask_probabilities, select_results
from adet_iuq.modeling.grid.losses import GridLossSettings, class_loss, mask_logits, mask_loss
from adet_iuq.modeling.grid.mask_branch import GridMaskBranch
from adet_iuq.modeling.grid.suppression import point_nms
from adet_iuq.modeling.grid.targets import GridLayout, GridTargets, GridTruth, assign_cells
from adet_iuq.modeling.layers.mask_sets import boxes_around
from adet_iuq.modeling.layers.masks import instance_masks
from adet_iuq.modeling.layers.paste import pasted_grid_masks
from adet_iuq.modeling.parts import part
from adet_iuq.modeling.segmenter import Segmenter, TrainingPass, content_size, output_size

STRIDE = 4  # stride of the dense map


@dataclass
class GridMaps:
    """The predictions of a forward pass."""

    class_logits: list[Tensor]  # L x (B, C, S_l, S_l)
    kernels: list[Tensor]  # L x (B, D, S_l, S_l), the queries
    features: Tensor  # (B, D, Hp / 4, Wp / 4), the dense map


class GridSegmenter(Segmenter):
    """A segmenter without its instance head: a subclass adds that head and implements `predict`."""

    mask_loss_name = "loss_ins"
    pixel_stride = STRIDE
    pixel_offset = (STRIDE - 1) / 2  # a cell of the map covers whole pixels, like a cell of the quarter-size masks
    pixel_nominal_offset = pixel_offset

    def __init__(
        self,
        *,
        backbone: Backbone,
        mask_head: GridMaskBranch,
        layout: GridLayout,
        num_classes: int,
        loss_settings: GridLossSettings,
        detection: GridDetection,
        in_features: Sequence[str],
        mask_in_features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: the feature pyramid.
            mask_head: makes the dense map.
            layout: the grids.
            num_classes: the number of classes C.
            loss_settings: the settings of both losses.
            detection: the thresholds of the inference.
            in_features: the names of the pyramid's maps that the grids read, finest first.
            mask_in_features: the names of the maps that the mask branch reads, finest first.
            pixel_mean: mean of each input channel.
            pixel_std: deviation of each input channel.
        """
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=backbone.size_divisibility)
        self.backbone, self.mask_head = backbone, mask_head
        self.layout, self.num_classes = layout, num_classes
        self.loss_settings, self.detection = loss_settings, detection
        self.in_features, self.mask_in_features = list(in_features), list(mask_in_features)
        self.pixel_dim, self.mask_loss_ceiling = mask_head.out_channels, loss_settings.mask_weight

    @abstractmethod
    def predict(self, features: dict[str, Tensor]) -> GridMaps:
        """The class logits, the queries and the dense map, from the backbone's maps."""

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns each image's `instances`: scores, pred_classes, pred_masks (bool, output size), tight pred_boxes."""
        images = self.preprocess(batched_inputs)
        maps = self._maps(images)
        results = []
        for index, (found, inputs) in enumerate(zip(self.detect(maps), batched_inputs, strict=True)):
            input_size = images.image_sizes[index]
            instances = self.postprocess(maps, index, found, input_size, output_size(inputs, input_size))
            results.append({"instances": instances})
        return results

    def instance_inputs(self, features: dict[str, Tensor]) -> list[Tensor]:
        """The grids' inputs, finest first: the finest map is halved, and the coarsest gets the size of the one before."""
        maps = [features[name] for name in self.in_features]
        maps[0] = F.interpolate(maps[0], scale_factor=0.5, mode="bilinear", align_corners=False)
        maps[-1] = F.interpolate(maps[-1], size=maps[-2].shape[-2:], mode="bilinear", align_corners=False)
        return maps

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """Computes `loss_ins` and `loss_cate`. Queries are the kernels of positive cells, one per pair (cell, instance)."""
        images = self.preprocess(batched_inputs)
        instances = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        maps = self._maps(images)
        with part("targets"):
            masks = [instance_masks(image) for image in instances]
            targets = self.assign(instances, masks, (images.tensor.shape[2], images.tensor.shape[3]))
        with part("heads"):
            kernels = self.positive_kernels(maps, targets)
        return TrainingPass(
            losses=self.losses(maps, targets, kernels, masks),
            features=maps.features,
            embeddings=kernels,
            image_index=targets.image,
            target_index=targets.instance,
            masks=masks,
            image_sizes=[content_size(inputs) for inputs in batched_inputs],
        )

    def _maps(self, images: ImageList) -> GridMaps:
        with part("backbone"):
            features = self.backbone(images.tensor)
        with part("heads"):
            return self.predict(features)

    def assign(self, instances: list[Instances], masks: list[Tensor], frame: tuple[int, int]) -> GridTargets:
        """The targets of a batch that is padded to `frame`, (Hp, Wp)."""
        truths = [
            GridTruth(image.gt_boxes.tensor, image.gt_classes, mask)
            for image, mask in zip(instances, masks, strict=True)
        ]
        return assign_cells(self.layout, truths, frame, self.num_classes)

    def positive_kernels(self, maps: GridMaps, targets: GridTargets) -> Tensor:
        """(P, D), the kernels of the positive cells, one per pair."""
        kernels = torch.cat([level.flatten(2) for level in maps.kernels], dim=2)
        return kernels[targets.image, :, targets.cell]

    @part("losses")
    def losses(self, maps: GridMaps, targets: GridTargets, kernels: Tensor, masks: list[Tensor]) -> dict[str, Tensor]:
        """`loss_ins`, the dice loss of the masks, and `loss_cate`, the focal loss of the classes; both are weighted."""
        settings = self.loss_settings
        with part("heads"):
            logits = mask_logits(kernels, targets.image, maps.features)
        reduce = settings.reduce_normalizer
        loss_ins = mask_loss(logits, targets.image, targets.instance, masks, reduce=reduce)
        loss_cate = class_loss(
            maps.class_logits, targets.labels, settings.focal_alpha, settings.focal_gamma, reduce=reduce
        )
        return {"loss_ins": settings.mask_weight * loss_ins, "loss_cate": settings.class_weight * loss_cate}

    @part("nms")
    @torch.no_grad()
    def detect(self, maps: GridMaps) -> list[GridResults]:
        """Scores, classes and cells of every image's results, best first."""
        with torch.autocast(self.device.type, enabled=False):
            scores = torch.cat([point_nms(level.float().sigmoid()).flatten(2) for level in maps.class_logits], dim=2)
            kernels = torch.cat([level.float().flatten(2) for level in maps.kernels], dim=2)
            strides = self.layout.cell_strides(self.device)
            settings = self.detection.times(self.images_per_picture)
            return [
                select_results(score.T, kernel.T, features, strides, settings)
                for score, kernel, features in zip(scores, kernels, maps.features.float(), strict=True)
            ]

    @part("postprocess")
    @torch.no_grad()
    def postprocess(
        self,
        maps: GridMaps,
        image: int,
        found: GridResults,
        input_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> Instances:
        """Masks and boxes of one image's results at the output size (height, width)."""
        kernels = torch.cat([level[image].float().flatten(1) for level in maps.kernels], dim=1)[:, found.cells].T
        features = maps.features[image].float()
        with part("heads"), torch.autocast(self.device.type, enabled=False):
            probabilities = mask_probabilities(kernels, features.flatten(1)).view(-1, *features.shape[1:])
        result = Instances(output_size)
        result.scores, result.pred_classes = found.scores, found.classes
        chunks = pasted_grid_masks(probabilities, input_size, output_size, self.detection.mask_threshold)
        result.pred_masks = self.gathered_masks(chunks, len(probabilities), output_size)
        result.pred_boxes = Boxes(boxes_around(result.pred_masks, self.device))
        return result
