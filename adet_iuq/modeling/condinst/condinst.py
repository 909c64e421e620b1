"""CondInst: FCOS's locations as queries, a shared dense map, dynamic 1x1 convolutions (arXiv 2003.05664).

The published model under its published names; its facts are in docs/parity/condinst.md.
Shapes: B images, N queries of the batch, K instances of one image, (Hp, Wp) padded input, D = 8 channels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_proposal_generator
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import build_backbone
from adet_iuq.modeling.condinst.fcos import FCOS
from adet_iuq.modeling.condinst.fcos_head import HeadMaps
from adet_iuq.modeling.condinst.fcos_inference import Detections
from adet_iuq.modeling.condinst.fcos_targets import GroundTruth, Positives
from adet_iuq.modeling.condinst.mask_branch import MaskBranch
from adet_iuq.modeling.condinst.mask_head import DynamicMaskHead, DynamicQueries, query_controller
from adet_iuq.modeling.condinst.queries import random_cap, top_scores
from adet_iuq.modeling.layers import (
    aligned_bilinear,
    conv_at,
    dice_losses,
    instance_masks,
    loss_count,
    mask_centroids,
    pasted_masks,
    strided_masks,
)
from adet_iuq.modeling.parts import part
from adet_iuq.modeling.segmenter import Segmenter, TrainingPass, content_size, output_size


@META_ARCH_REGISTRY.register()
class CondInst(Segmenter):
    """The base segmenter, without instance-unique querying."""

    # A checkpoint may lack these tensors, as they carry no information.
    optional_checkpoint_keys = ("mask_head._iter", "mask_head.sizes_of_interest")

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: FCOS,
        controller: nn.Conv2d,
        mask_branch: MaskBranch,
        mask_head: DynamicMaskHead,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        max_queries: int,
        queries_per_image: int,
        mask_weight: float = 1.0,
        reduce_normalizer: bool = False,
    ) -> None:
        """
        Args:
            backbone: the feature pyramid.
            proposal_generator: makes the locations' classes, boxes and features.
            controller: predicts the queries from the box features; see `query_controller`.
            mask_branch: makes the dense map.
            mask_head: decodes masks.
            pixel_mean: mean of each input channel.
            pixel_std: deviation of each input channel.
            max_queries: the most training queries of this rank, chosen at random; -1: no limit.
            queries_per_image: the most training queries of an image, chosen by score; -1: no limit.
            mask_weight: the weight of the mask loss; published: 1.
            reduce_normalizer: whether the mask loss averages over the queries of all ranks.

        Raises:
            UserError: both limits are set, or the controller does not predict as many numbers as the head reads.
        """
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=backbone.size_divisibility)
        if controller.out_channels != mask_head.num_params:
            raise UserError(
                f"CondInst's controller predicts {controller.out_channels} numbers, but its mask head reads queries of "
                f"{mask_head.num_params}. Build it with query_controller(in_channels, {mask_head.num_params})."
            )
        if max_queries >= 0 and queries_per_image >= 0:
            raise UserError("Set MODEL.CONDINST.MAX_PROPOSALS or TOPK_PROPOSALS_PER_IM, the other one to -1.")
        self.backbone, self.proposal_generator, self.controller = backbone, proposal_generator, controller
        self.mask_branch, self.mask_head = mask_branch, mask_head
        self.max_queries, self.queries_per_image = max_queries, queries_per_image
        self.mask_weight, self.reduce_normalizer = mask_weight, reduce_normalizer
        self.mask_loss_ceiling = mask_weight
        self.pixel_dim, self.pixel_stride = mask_head.feature_channels, mask_head.feature_stride
        # Masks are sampled at s // 2 + s k, and cell i meets k = factor * i + factor // 2.
        self.pixel_offset = mask_head.out_stride // 2 + mask_head.out_stride * (mask_head.factor // 2)
        # The outputs of all layers; the backward pass also holds the gradients of two of them.
        self.bytes_per_pair = 4 * (sum(out for out, _ in mask_head.shapes) + 2 * mask_head.shapes[0][0])

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from MODEL.FCOS, MODEL.CONDINST and MODEL.BACKBONE.

        Raises:
            UserError: a value of these keys is unknown, or does not fit the others or the backbone.
        """
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        missing = [name for name in cfg.MODEL.FCOS.IN_FEATURES if name not in shapes]
        if missing:
            raise UserError(
                f"MODEL.FCOS.IN_FEATURES names {missing}, but MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} offers "
                f"{list(shapes)}. CondInst needs a pyramid such as build_fcos_resnet_fpn_backbone."
            )
        mask_branch = MaskBranch(cfg, shapes)
        mask_head = DynamicMaskHead(cfg, mask_branch.stride)
        controller = query_controller(shapes[cfg.MODEL.FCOS.IN_FEATURES[0]].channels, mask_head.num_params)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "controller": controller,
            "mask_branch": mask_branch,
            "mask_head": mask_head,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "max_queries": cfg.MODEL.CONDINST.MAX_PROPOSALS,
            "queries_per_image": cfg.MODEL.CONDINST.TOPK_PROPOSALS_PER_IM,
            "mask_weight": cfg.MODEL.CONDINST.LOSS_WEIGHT_MASK,
            "reduce_normalizer": cfg.MODEL.REDUCE_NORMALIZER,
        }

    def training_state(self) -> dict[str, Tensor]:
        """The state that a resumed training needs besides the checkpoint's weights and buffers."""
        return {"moving_positives": self.proposal_generator.moving_positives.clone()}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads a state that `training_state` returned."""
        self.proposal_generator.moving_positives.copy_(state["moving_positives"])

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """Computes the losses; FCOS's positives are the queries, with location and scale, on the dense map at stride 8.

        `instance_context` holds for every instance the place where its query would sit, and its scale.
        """
        images = self.preprocess(batched_inputs)
        instances = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        features, mask_features, maps = self._maps(images)
        with part("targets"):
            masks = [instance_masks(image) for image in instances]
            truths = [
                GroundTruth(image.gt_boxes.tensor, image.gt_classes, mask_centroids(mask))
                for image, mask in zip(instances, masks, strict=True)
            ]
        losses: dict[str, Tensor] = {}
        with part("losses"):
            if self.mask_branch.semantic_classes is not None:
                losses["loss_sem"] = self.mask_branch.semantic_loss(features, masks, [i.gt_classes for i in instances])
            detection_losses, positives = self.proposal_generator.losses(maps, truths)
        with part("heads"):
            queries, image_index, target_index = self._training_queries(maps, positives)
            logits = self.mask_head.retrieve_map(queries, image_index, mask_features)
        losses |= detection_losses
        with part("losses"):
            losses["loss_mask"] = self.mask_weight * self.mask_loss_on(logits, image_index, target_index, masks)
        self.mask_head._iter += 1
        return TrainingPass(
            losses=losses,
            features=mask_features,
            embeddings=queries.params,
            image_index=image_index,
            target_index=target_index,
            masks=masks,
            image_sizes=[content_size(inputs) for inputs in batched_inputs],
            context={"location": queries.locations, "scale": queries.scales},
            instance_context={
                "reference_location": [truth.centres for truth in truths],
                "reference_scale": [self._scales_of(truth.boxes) for truth in truths],
            },
        )

    def _maps(self, images: ImageList) -> tuple[dict[str, Tensor], Tensor, HeadMaps]:
        """The pyramid, the dense map and the maps of the detection head."""
        with part("backbone"):
            features = self.backbone(images.tensor)
        with part("heads"):
            return features, self.mask_branch(features), self.proposal_generator(features)

    def _scales_of(self, boxes: Tensor) -> Tensor:
        """(K,) scales of the levels that FCOS assigns to the centres of the boxes (K, 4)."""
        half = (boxes[:, 2:] - boxes[:, :2]).amax(1) / 2
        levels = torch.bucketize(half, self.mask_head.sizes_of_interest[:-1].to(half.dtype))
        return self.mask_head.scales(levels)

    def mask_loss_on(
        self,
        logits: Tensor,
        image_index: Tensor,
        target_index: Tensor,
        masks: list[Tensor],
        valid: Tensor | None = None,
    ) -> Tensor:
        """Mean dice loss of logits at the dense map's stride; a connected zero if there are no queries.

        Args:
            logits: (N, Hp/8, Wp/8), one map per query.
            image_index: (N,) long, the image of each query.
            target_index: (N,) long, the row of each query's instance in the image's masks.
            masks: B x (K, H, W) bool, the ground truth.
            valid: (B, Hp/8, Wp/8) bool, the cells that count; None: all.
        """
        factor = self.mask_head.factor
        upsampled = aligned_bilinear(logits[:, None], factor)[:, 0]
        size = (logits.shape[1] * factor, logits.shape[2] * factor)
        sampled = [strided_masks(mask, self.mask_head.out_stride, size) for mask in masks]
        if valid is not None:
            # A pixel counts if every cell that it is interpolated from counts.
            valid = aligned_bilinear(valid[:, None].float(), factor)[:, 0] > 0.999
        losses = dice_losses(upsampled, image_index, target_index, sampled, valid)
        count, factor = loss_count(len(losses), reduce=self.reduce_normalizer, device=losses.device)
        return losses.sum() * factor / count.clamp(min=1)

    def _training_queries(self, maps: HeadMaps, positives: Positives) -> tuple[DynamicQueries, Tensor, Tensor]:
        """The queries that the mask loss trains, the image of each, and the row of its instance in that image's masks."""
        if self.queries_per_image >= 0:
            keep = top_scores(positives, _confidence(maps, positives), self.queries_per_image)
        else:
            keep = random_cap(len(positives), self.max_queries, positives.level.device)
        keep = keep.sort().values  # restores the order by level
        level, image = positives.level[keep], positives.image[keep]
        params = self._params_at(maps, level, image, positives.cell[keep])
        queries = DynamicQueries(params, positives.locations[keep], self.mask_head.scales(level))
        return queries, image, positives.instance[keep]

    def _params_at(self, maps: HeadMaps, level: Tensor, image: Tensor, cell: Tensor) -> Tensor:
        """The parameters (N, num_params) of the queries at chosen cells, which must be ordered by level."""
        counts = torch.bincount(level, minlength=len(maps.box_features)).tolist()
        places = zip(maps.box_features, image.split(counts), cell.split(counts), strict=True)
        return torch.cat([conv_at(self.controller, *place) for place in places])

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns the `instances` of each image.

        Their fields are pred_boxes, scores, pred_classes, pred_masks (bool, output size), locations and fpn_levels.
        """
        images = self.preprocess(batched_inputs)
        _, mask_features, maps = self._maps(images)
        found = self.proposal_generator.detections(maps, self.images_per_picture)
        results = []
        for index, detections in enumerate(found):
            input_size = images.image_sizes[index]
            wished = output_size(batched_inputs[index], input_size)
            results.append({"instances": self._decode(maps, mask_features, index, detections, input_size, wished)})
        return results

    @part("postprocess")
    def _decode(
        self,
        maps: HeadMaps,
        mask_features: Tensor,
        image: int,
        detections: Detections,
        input_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> Instances:
        """Boxes and masks of one image's detections at the output size."""
        boxes = Boxes(detections.boxes.clone())
        boxes.scale(output_size[1] / input_size[1], output_size[0] / input_size[0])
        boxes.clip(output_size)
        kept = boxes.nonempty()
        boxes, detections = boxes[kept], detections[kept]
        probabilities, which = self._probabilities(maps, mask_features, image, detections)
        chunks = pasted_masks(probabilities, self.mask_head.out_stride, input_size, output_size)
        masks = self.gathered_masks(chunks, len(probabilities), output_size)
        result = Instances(output_size)
        result.pred_boxes, result.scores, result.pred_classes = boxes, detections.scores, detections.classes
        result.locations, result.fpn_levels = detections.locations, detections.levels
        result.pred_masks = masks[which]
        return result

    @part("heads")
    def _probabilities(
        self, maps: HeadMaps, mask_features: Tensor, image: int, detections: Detections
    ) -> tuple[Tensor, Tensor]:
        """Mask probabilities (U, Hp/s, Wp/s) of the distinct locations, and the row that each detection uses.

        A location is often detected with several classes, but its mask is decoded once.
        """
        places = torch.stack([detections.levels, detections.cells], dim=1)
        distinct, which = torch.unique(places, dim=0, return_inverse=True)
        level, cell = distinct.unbind(1)
        locations = detections.locations.new_empty(len(distinct), 2)
        locations[which] = detections.locations
        params = self._params_at(maps, level, torch.full_like(cell, image), cell)
        queries = DynamicQueries(params, locations, self.mask_head.scales(level))
        logits = self.mask_head.retrieve_map(queries, torch.zeros_like(cell), mask_features[image : image + 1])
        return aligned_bilinear(logits[:, None], self.mask_head.factor)[:, 0].sigmoid(), which


def _confidence(maps: HeadMaps, positives: Positives) -> Tensor:
    """(P,) the best class probability of every positive, times its quality."""
    parts = []
    splits = zip(positives.image.split(positives.counts), positives.cell.split(positives.counts), strict=True)
    for logits, quality, (image, cell) in zip(maps.logits, maps.quality, splits, strict=True):
        best = logits.flatten(2)[image, :, cell].float().sigmoid().amax(1)
        parts.append(best * quality.flatten(2)[image, 0, cell].float().sigmoid())
    return torch.cat(parts).detach()
