"""Mask2Former trained with instance-unique querying (parity spec of Mask2Former, section 10)."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.iuq import Pixels, Queries, Scene
from adet_iuq.modeling.layers import dot_product_maps, loss_count
from adet_iuq.modeling.mask2former import mask_losses
from adet_iuq.modeling.mask2former.mask2former import MaskFormer, TrainingPass
from adet_iuq.modeling.mask2former.matcher import Targets
from adet_iuq.modeling.query_segmenter import IUQMetaArch, content_size, scene_ids


@META_ARCH_REGISTRY.register()
class MaskFormerIUQ(IUQMetaArch, MaskFormer):
    """Mask2Former with `loss_inter` and `loss_equi`; its weights and its evaluation are Mask2Former's.

    Queries are the mask embeddings of matched queries, pixels the cells of the mask features, <q, i> their dot product.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Builds Mask2Former from `cfg`, then the criterion from `MODEL.IUQ`."""
        super().__init__(cfg)
        self.iuq_settings = cfg.MODEL.IUQ.MASK_FORMER.clone()
        for key, choices in (("QUERY_LAYERS", ("last", "all")), ("EQUI_MASK_LOSS", ("bce", "focal"))):
            if self.iuq_settings[key] not in choices:
                raise UserError(
                    f'MODEL.IUQ.MASK_FORMER.{key} is "{self.iuq_settings[key]}"; it can be {" or ".join(choices)}.'
                )
        self.pixel_dim = cfg.MODEL.SEM_SEG_HEAD.MASK_DIM
        self.pixel_stride = cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
        # Maps and masks are compared at points with align_corners False: cell i has its centre at pixel 4 i + 1.5.
        self.pixel_offset = (self.pixel_stride - 1) / 2
        self.init_iuq(cfg)

    def forward_scene(self, batched_inputs: list[dict[str, Any]]) -> tuple[Scene, dict[str, Tensor]]:
        """One forward pass in training: the scene and Mask2Former's losses, exactly as published."""
        done = self.training_pass(self.preprocess(batched_inputs), self.targets(batched_inputs))
        instances = [self._is_instance(target) for target in done.targets]
        scene = Scene(
            queries=self._queries(done, instances),
            features=done.mask_features,
            stride=self.pixel_stride,
            offset=self.pixel_offset,
            masks=[target.masks[kept] for target, kept in zip(done.targets, instances, strict=True)],
            image_sizes=[content_size(inputs) for inputs in batched_inputs],
            **scene_ids(batched_inputs, self.device),
        )
        return scene, done.losses

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """(Q, P) logits."""
        return queries.embeddings @ pixels.features.T

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """(Q, Hf, Wf) logits of every query on its own image's map."""
        return dot_product_maps(queries.embeddings, queries.image_index, maps)

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The published mask losses at random points, averaged over the queries; points near invalid cells left out.

        Args:
            logits: (Q, Hf, Wf).
            scene: its masks are the targets.
            valid: (B, Hf, Wf) bool.
        """
        queries = scene.queries
        order = torch.argsort(queries.image_index, stable=True)
        counts = torch.bincount(queries.image_index, minlength=len(scene)).tolist()
        frame = (logits.shape[1] * scene.stride, logits.shape[2] * scene.stride)
        sampled, wanted, counting = self.criterion.sample(
            logits[order],
            queries.target_index[order],
            counts,
            scene.masks,
            frame,
            valid[queries.image_index[order]].to(logits.dtype),
        )
        settings = self.iuq_settings
        if settings.EQUI_MASK_LOSS == "bce":
            point_loss = mask_losses.cross_entropy(sampled, wanted, counting)
        else:
            point_loss = mask_losses.focal(
                sampled, wanted, settings.EQUI_FOCAL_ALPHA, settings.EQUI_FOCAL_GAMMA, counting
            )
        dice_loss = mask_losses.dice(sampled, wanted, counting)
        total = settings.EQUI_MASK_WEIGHT * point_loss.sum() + settings.EQUI_DICE_WEIGHT * dice_loss.sum()
        count, factor = loss_count(len(logits), reduce=self.criterion.reduce_normalizer, device=logits.device)
        return total * factor / count.clamp(min=1)

    def _is_instance(self, target: Targets) -> Tensor:
        """(K,) bool: targets that count as instances, things unless MODEL.IUQ.MASK_FORMER.STUFF_INSTANCES."""
        if self.things is None or self.iuq_settings.STUFF_INSTANCES:
            return torch.ones_like(target.labels, dtype=torch.bool)
        return torch.isin(target.labels, torch.as_tensor(self.things, device=target.labels.device))

    def _queries(self, done: TrainingPass, instances: Sequence[Tensor]) -> Queries:
        """Matched queries of the last prediction, or of all, whose target is an instance."""
        start = len(done.matches) - 1 if self.iuq_settings.QUERY_LAYERS == "last" else 0
        # Row of each target among the instances of its image; all images' targets one after the other.
        kept = torch.cat(list(instances))
        rows = torch.cat([one.cumsum(0) - 1 for one in instances])
        first = torch.tensor([0, *(len(one) for one in instances[:-1])], device=self.device).cumsum(0)
        embeddings, images, targets = [], [], []
        for prediction, match in zip(done.predictions[start:], done.matches[start:], strict=True):
            place = first[match.image] + match.target
            chosen = kept[place]
            embeddings.append(prediction.embeddings[match.image, match.query][chosen])
            images.append(match.image[chosen])
            targets.append(rows[place[chosen]])
        return Queries(torch.cat(embeddings), torch.cat(images), torch.cat(targets))
