"""Mask2Former: learned queries, a stride-4 map, masks as their dot product (arXiv 2112.01527).

The published model under its published names (its meta-architecture is called MaskFormer); its facts
are in docs/parity/mask2former.md. Shapes: B images, Q queries, K targets of one image, (Hp, Wp) padded input, D
channels of the mask features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.modeling.backbone import build_backbone
from adet_iuq.modeling.layers import instance_masks, pair_rows
from adet_iuq.modeling.mask2former.criterion import SetCriterion
from adet_iuq.modeling.mask2former.head import MaskFormerHead
from adet_iuq.modeling.mask2former.inference import (
    OutputGeometry,
    enlarge,
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from adet_iuq.modeling.mask2former.matcher import Matches, Targets
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction
from adet_iuq.modeling.parts import part
from adet_iuq.modeling.segmenter import Segmenter, TrainingPass, content_size, output_size


@dataclass(frozen=True)
class TestSettings:
    """What the model returns in evaluation; names and meanings are those of MODEL.MASK_FORMER.TEST."""

    semantic_on: bool
    instance_on: bool
    panoptic_on: bool
    object_mask_threshold: float
    overlap_threshold: float
    resize_first: bool
    detections_per_image: int


@META_ARCH_REGISTRY.register()
class MaskFormer(Segmenter):
    """The base segmenter, without instance-unique querying."""

    # A checkpoint may lack this tensor, as it is made from the config.
    optional_checkpoint_keys = ("criterion.empty_weight",)
    # The dice loss has a largest value, the cross-entropy has none. For an empty mask the dice loss is s / (s + 1), where s
    # is the number of points on the instance (1 is added to numerator and denominator): at least 0.5 for
    # every instance that has a point.
    mask_loss_name = "loss_dice"
    mask_loss_collapsed = 0.5
    # The matched queries that a training pass returns: those of the "last" prediction or of "all"; stuff included or not.
    query_layers: str = "last"
    stuff_instances: bool = False

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: MaskFormerHead,
        set_criterion: SetCriterion,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        size_divisibility: int,
        things: Sequence[int] | None,
        test: TestSettings,
    ) -> None:
        """
        Args:
            backbone: makes "res2" to "res5".
            sem_seg_head: makes the predictions and the mask features.
            set_criterion: the matching and the losses.
            pixel_mean: mean of each input channel.
            pixel_std: deviation of each input channel.
            size_divisibility: the padded input's sides are multiples of it; 0 or less: of what the backbone needs.
            things: the classes that are things, if the training set tells; None: all.
            test: what the model returns in evaluation.
        """
        divisibility = size_divisibility if size_divisibility > 0 else backbone.size_divisibility
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=divisibility)
        self.backbone, self.sem_seg_head, self.criterion = backbone, sem_seg_head, set_criterion
        self.things, self.test = things, test
        self.mask_loss_ceiling = set_criterion.dice_weight
        self.pixel_dim, self.pixel_stride = sem_seg_head.pixel_decoder.mask_channels, sem_seg_head.pixel_decoder.stride
        # Maps and masks are compared at points with align_corners False, so cell i has its centre at pixel 4 i + 1.5.
        self.pixel_offset = (self.pixel_stride - 1) / 2

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from MODEL.MASK_FORMER, MODEL.SEM_SEG_HEAD and MODEL.BACKBONE."""
        backbone = build_backbone(cfg)
        test = cfg.MODEL.MASK_FORMER.TEST
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "set_criterion": SetCriterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "things": thing_classes(cfg),
            "test": TestSettings(
                semantic_on=test.SEMANTIC_ON,
                instance_on=test.INSTANCE_ON,
                panoptic_on=test.PANOPTIC_ON,
                object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
                overlap_threshold=test.OVERLAP_THRESHOLD,
                resize_first=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE or test.INSTANCE_ON or test.PANOPTIC_ON,
                detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            ),
        }

    @part("targets")
    def targets(self, batched_inputs: list[dict[str, Any]]) -> list[Targets]:
        """The classes and masks of every image, on the model's device."""
        instances: list[Instances] = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        return [Targets(one.gt_classes, instance_masks(one)) for one in instances]

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """Computes the set criterion's losses. Queries are the matched ones whose target is an instance, at stride 4.

        The masks are those of the instances: of things only, unless `stuff_instances` is set.
        """
        images, targets = self.preprocess(batched_inputs), self.targets(batched_inputs)
        predictions, mask_features = self._predictions(images)
        frame = (images.tensor.shape[2], images.tensor.shape[3])
        losses, matches = self.criterion(predictions, mask_features, targets, frame)
        with part("targets"):
            instances = [self._is_instance(target) for target in targets]
        used = matches.last(1) if self.query_layers == "last" else matches
        predictions = predictions[-len(used) :]
        with part("heads"):
            embeddings, image_index, target_index = self._matched(predictions, used, instances)
        return TrainingPass(
            losses=losses,
            features=mask_features,
            embeddings=embeddings,
            image_index=image_index,
            target_index=target_index,
            masks=[target.masks[kept] for target, kept in zip(targets, instances, strict=True)],
            image_sizes=[content_size(inputs) for inputs in batched_inputs],
            query_sources=[prediction.embeddings for prediction in predictions],
        )

    def _is_instance(self, target: Targets) -> Tensor:
        """(K,) bool, the targets that count as instances."""
        if self.things is None or self.stuff_instances:
            return torch.ones_like(target.labels, dtype=torch.bool)
        return torch.isin(target.labels, torch.as_tensor(self.things, device=target.labels.device))

    def _matched(
        self, predictions: Sequence[Prediction], matches: Matches, instances: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The queries that the predictions matched with an instance: embeddings (Q, D), images, and the instances' rows."""
        # The row of each target among its image's instances; the targets of all images follow each other.
        kept = torch.cat(list(instances))
        rows = torch.cat([one.cumsum(0) - 1 for one in instances])
        place = pair_rows([len(one) for one in instances], matches.image, matches.target)
        chosen = kept[place].nonzero(as_tuple=True)
        embeddings = torch.stack([one.embeddings for one in predictions])[matches.place]
        images = matches.image.expand_as(place)
        return embeddings[chosen], images[chosen], rows[place[chosen]]

    def _predictions(self, images: ImageList) -> tuple[list[Prediction], Tensor]:
        """The head's outputs for the images: all predictions and the mask features."""
        with part("backbone"):
            features = self.backbone(images.tensor)
        with part("heads"):
            predictions: tuple[list[Prediction], Tensor] = self.sem_seg_head(features)
        return predictions

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns a dict per image, with the entries that MODEL.MASK_FORMER.TEST asks for.

        They are `instances`, `panoptic_seg` (ids (height, width) int32, list of segments) and `sem_seg` (classes,
        height, width); `inference.py` describes them.
        """
        images = self.preprocess(batched_inputs)
        predictions, mask_features = self._predictions(images)
        final = predictions[-1]
        padded = (images.tensor.shape[2], images.tensor.shape[3])
        results = []
        for index, wished in enumerate(batched_inputs):
            size = images.image_sizes[index]
            with part("heads"):
                masks = torch.einsum("qd,dhw->qhw", final.embeddings[index], mask_features[index]).float()
            geometry = OutputGeometry(padded, (int(size[0]), int(size[1])), output_size(wished, size))
            results.append(self.results(final.logits[index].float(), masks, geometry))
        return results

    @part("postprocess")
    def results(self, logits: Tensor, masks: Tensor, geometry: OutputGeometry) -> dict[str, Any]:
        """The results of one image that the config asks for.

        Args:
            logits: (Q, K + 1), the class logits.
            masks: (Q, Hp/4, Wp/4), the mask logits.
            geometry: the sizes on the way to the output.
        """
        test = self.test
        result: dict[str, Any] = {}
        if test.panoptic_on or (test.semantic_on and test.resize_first):
            resized = geometry.resize(masks)
        if test.semantic_on and test.resize_first:
            result["sem_seg"] = semantic_inference(logits, resized)
        elif test.semantic_on:
            result["sem_seg"] = geometry.fit(semantic_inference(logits, enlarge(masks, geometry.padded)))
        if test.panoptic_on:
            things = range(logits.shape[1] - 1) if self.things is None else self.things
            result["panoptic_seg"] = panoptic_inference(
                logits, resized, things, test.object_mask_threshold, test.overlap_threshold
            )
        if test.instance_on:
            kept = self.things if test.panoptic_on else None
            count = test.detections_per_image * self.images_per_picture  # never more than pairs of a query and a class
            result["instances"] = instance_inference(logits, masks, geometry, count, kept, encode=self.masks_encoded)
        return result


def thing_classes(cfg: CfgNode) -> list[int] | None:
    """The class numbers that are things, from the metadata of the (first) training set; None if it does not say.

    Raises:
        UserError: panoptic segments are asked for, and no data set tells things from stuff.
    """
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    numbers = MetadataCatalog.get(names[0]).get("thing_dataset_id_to_contiguous_id") if names else None
    if numbers is None and cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON:
        raise UserError(
            "MODEL.MASK_FORMER.TEST.PANOPTIC_ON needs to know which classes are things; "
            f"{names[0] if names else 'an empty DATASETS.TRAIN'} does not say. Name a panoptic data set in DATASETS.TRAIN."
        )
    return None if numbers is None else sorted(set(numbers.values()))
