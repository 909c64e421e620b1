"""SparseInst: activation maps pool queries, masks are their dot product with a map at stride 8 (arXiv 2203.12827).

The published model under its published names; the facts are in docs/parity/sparseinst.md. Shapes: B images, N queries, S
matched pairs of the batch, D channels of queries and map, (Hp, Wp) padded input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from adet_iuq.modeling import Segmenter, TrainingPass, content_size, output_size, part
from adet_iuq.modeling.backbone import build_backbone
from adet_iuq.modeling.layers import boxes_around, instance_masks, ordered_dot_product_maps

from .config import check_config
from .criterion import Criterion
from .decoder import IAMDecoder, Prediction
from .encoder import InstanceContextEncoder
from .inference import best, binary_masks, class_scores, maskness
from .targets import Matcher, Matches, Targets, enlarged, soft_masks

PADDING = 32  # the padded input's sides are multiples of it


@META_ARCH_REGISTRY.register()
class SparseInst(Segmenter):
    """The base segmenter, without instance-unique querying."""

    mask_loss_name = "loss_dice"  # only this one of the two mask losses has a largest value
    # A bilinear resize takes the map to stride 4, where soft masks lie at pixel 4 i + 1.5. So cell i is at pixel 8 i + 3.5.
    pixel_stride = 8
    pixel_offset = 3.5

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        encoder: InstanceContextEncoder,
        decoder: IAMDecoder,
        matcher: Matcher,
        set_criterion: Criterion,
        cls_threshold: float,
        mask_threshold: float,
        detections_per_image: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: makes the encoder's three maps.
            encoder: makes one map of them.
            decoder: makes the predictions.
            matcher: matches queries and instances in training.
            set_criterion: computes the losses.
            cls_threshold: the lowest score of results; see config.py.
            mask_threshold: the threshold of mask probabilities; see config.py.
            detections_per_image: the number of results that are kept, best first.
            pixel_mean: mean of each input channel.
            pixel_std: deviation of each input channel.
        """
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=PADDING)
        self.backbone, self.encoder, self.decoder = backbone, encoder, decoder
        self.matcher, self.criterion = matcher, set_criterion
        self.cls_threshold, self.mask_threshold = cls_threshold, mask_threshold
        self.detections_per_image = detections_per_image
        self.pixel_dim, self.mask_loss_ceiling = decoder.kernel_dim, set_criterion.mask_dice_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments.

        Raises:
            UserError: a published key has a value that is not supported.
        """
        check_config(cfg)
        section = cfg.MODEL.SPARSE_INST
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        channels = section.ENCODER.NUM_CHANNELS
        weights = {name.lower(): value for name, value in section.LOSS.items() if name.endswith("_WEIGHT")}
        return {
            "backbone": backbone,
            "encoder": InstanceContextEncoder({n: shapes[n].channels for n in section.ENCODER.IN_FEATURES}, channels),
            "decoder": IAMDecoder(cfg, channels),
            "matcher": Matcher(section.MATCHER.ALPHA, section.MATCHER.BETA),
            "set_criterion": Criterion(**weights, reduce_normalizer=cfg.MODEL.REDUCE_NORMALIZER),
            "cls_threshold": section.CLS_THRESHOLD,
            "mask_threshold": section.MASK_THRESHOLD,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def predict(self, images: ImageList) -> Prediction:
        """The network's predictions for images, in float32 even under autocast."""
        with part("backbone"):
            features = self.backbone(images.tensor)
        with part("heads"):
            found = self.decoder(self.encoder(features))
            return Prediction(
                found.class_logits.float(), found.kernels.float(), found.objectness.float(), found.features.float()
            )

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """Computes the losses; queries are the kernels of matched queries, on the map at stride 8."""
        images = self.preprocess(batched_inputs)
        instances = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        found = self.predict(images)
        with torch.autocast(self.device.type, enabled=False):
            with part("targets"):
                masks = [instance_masks(one) for one in instances]
                size = (images.tensor.shape[2] // 4, images.tensor.shape[3] // 4)
                targets = [
                    Targets(one.gt_classes, soft_masks(mask, size)) for one, mask in zip(instances, masks, strict=True)
                ]
                matches = self.match(found, targets)
            with part("heads"):  # only masks of matched queries have a gradient
                embeddings = found.kernels[matches.image, matches.query]
                logits = enlarged(ordered_dot_product_maps(embeddings, matches.counts, found.features))
            with part("losses"):
                losses = self.criterion(found.class_logits, found.objectness, logits, matches, targets)
        return TrainingPass(
            losses=losses,
            features=found.features,
            embeddings=embeddings,
            image_index=matches.image,
            target_index=matches.target,
            masks=masks,
            image_sizes=[content_size(inputs) for inputs in batched_inputs],
        )

    @torch.no_grad()
    def match(self, found: Prediction, targets: Sequence[Targets]) -> Matches:
        """sigma, from the masks of all queries."""
        masks = (enlarged(_mask_logits(*one)) for one in zip(found.kernels, found.features, strict=True))
        return self.matcher(found.class_logits, masks, targets)

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns each image's `instances`, in the order of the queries.

        Their fields are scores, pred_classes, pred_masks (bool, output size) and tight pred_boxes, which the published
        model does not give.
        """
        images = self.preprocess(batched_inputs)
        found = self.predict(images)
        padded = (images.tensor.shape[2], images.tensor.shape[3])
        results = []
        for index, inputs in enumerate(batched_inputs):
            size = (int(images.image_sizes[index][0]), int(images.image_sizes[index][1]))
            result = Instances(output_size(inputs, size))
            with torch.autocast(self.device.type, enabled=False):
                scores, labels, masks = self.detect(found, index)
            with part("postprocess"):
                result.scores, result.pred_classes = scores, labels
                chunks = binary_masks(masks, padded, size, result.image_size, self.mask_threshold)
                result.pred_masks = self.gathered_masks(chunks, len(masks), result.image_size)
                result.pred_boxes = Boxes(boxes_around(result.pred_masks, self.device))
            results.append({"instances": result})
        return results

    def detect(self, found: Prediction, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (n,), classes (n,) and mask probabilities (n, Hp / 4, Wp / 4) of one image."""
        with part("nms"):
            scores, labels = class_scores(found.class_logits[index], found.objectness[index])
            kept = (scores > self.cls_threshold).nonzero()[:, 0]
        with part("heads"):
            masks = enlarged(_mask_logits(found.kernels[index, kept], found.features[index])).sigmoid()
        with part("nms"):
            scores = scores[kept] * maskness(masks, self.mask_threshold)
            chosen = best(scores, self.detections_per_image * self.images_per_picture)
        return scores[chosen], labels[kept][chosen], masks[chosen]


def _mask_logits(kernels: Tensor, features: Tensor) -> Tensor:
    """(N, h, w) logits of kernels (N, D) on one image's map (D, h, w)."""
    return torch.einsum("nd,dhw->nhw", kernels, features)
