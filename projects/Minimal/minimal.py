"""A segmenter in one file: queries are cells of a coarse map, pixels are cells of a fine map, a mask is their dot product.

The squared distance of pixel and query, times a factor that the query chooses, is subtracted from the dot product,
because distant pixels belong to other instances. Each instance trains one query, the cell under its centroid. B images,
C classes, D numbers in a pixel and D + 1 in a query, S x T query cells, K instances of an image, Q instances of all
images that have a query, (Hp, Wp) the padded input.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.modeling import Segmenter, TrainingPass, content_size, output_size
from adet_iuq.modeling.backbone import build_backbone
from adet_iuq.modeling.layers import (
    boxes_around,
    dice_losses,
    dot_product_maps,
    focal_loss_sum,
    instance_masks,
    mask_centroids,
    pasted_masks,
    strided_masks,
)


@META_ARCH_REGISTRY.register()
class Minimal(Segmenter):
    """The base segmenter; it knows nothing of instance-unique querying."""

    # Cell i of the fine map: `strided_masks` supervises it by the input pixel 4 i + 2, and `pasted_masks` draws it there.
    pixel_stride = 4
    pixel_offset = 2.0

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        query_feature: str,
        dim: int,
        mask_weight: float,
        score_thresh: float,
        max_detections: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: a pyramid with "p2" to "p5", of strides 4 to 32.
            num_classes: the number of classes C; see config.py.
            query_feature: the name of the map whose cells are queries.
            dim: D, the numbers in a pixel.
            mask_weight: the weight of the mask loss.
            score_thresh: the lowest score of results.
            max_detections: the most results of an image.
            pixel_mean: mean of each input channel.
            pixel_std: deviation of each input channel.
        """
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=backbone.size_divisibility)
        shape = backbone.output_shape()[query_feature]
        self.backbone, self.query_feature, self.query_stride = backbone, query_feature, shape.stride
        self.num_classes, self.score_thresh, self.max_detections = num_classes, score_thresh, max_detections
        self.mask_weight = self.mask_loss_ceiling = mask_weight  # the largest value of a dice loss is 1
        self.pixel_dim = dim
        width = shape.channels
        self.tower = nn.Sequential(*conv_block(width, width), *conv_block(width, width))
        self.classes, self.queries = (nn.Conv2d(width, count, 3, padding=1) for count in (num_classes, dim + 1))
        self.pixels = nn.Sequential(*conv_block(width, width), nn.Conv2d(width, dim, 1))
        # Nearly all cells are background, so scores start at 0.01.
        self.classes.bias = nn.Parameter(torch.full((num_classes,), -4.6))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = {name.lower(): value for name, value in cfg.MODEL.MINIMAL.items()}
        return {
            "backbone": build_backbone(cfg),
            **options,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, C, S, T), queries (B, D + 1, S, T), pixels (B, D, Hp / 4, Wp / 4), from (B, 3, Hp, Wp)."""
        maps = self.backbone(images)
        shared = self.tower(maps[self.query_feature])
        size = maps["p2"].shape[2:]
        # Every map is used, because a parameter without a gradient would stop a training on several processes.
        levels = [F.interpolate(maps[name], size, mode="bilinear") for name in ("p2", "p3", "p4", "p5")]
        fine = torch.stack(levels).sum(0)
        return self.classes(shared), self.queries(shared), self.pixels(fine)

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """Computes `loss_cls`, the focal loss of the cells, and `loss_mask`, the dice loss of the instances' masks."""
        logits, queries, pixels = self.predict(self.preprocess(batched_inputs).tensor)
        instances = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        masks = [instance_masks(one) for one in instances]
        matches = [self.match(one, logits.shape[3]) for one in masks]
        target = torch.cat([target for target, _ in matches])
        cell = torch.cat([cell for _, cell in matches])
        image = torch.cat([torch.full_like(cell, index) for index, (_, cell) in enumerate(matches)])
        label = torch.cat([one.gt_classes[target] for one, (target, _) in zip(instances, matches, strict=True)])
        positive = (image * self.num_classes + label) * logits[0, 0].numel() + cell
        embeddings = queries.flatten(2)[image, :, cell]
        locations = cell_centres(cell, logits.shape[3], self.query_stride)
        found = mask_logits(embeddings, image, locations, pixels)
        return TrainingPass(
            losses={
                "loss_cls": focal_loss_sum(logits, positive, alpha=0.25, gamma=2.0) / max(len(cell), 1),
                "loss_mask": self.mask_weight * mean_dice(found, image, target, masks),
            },
            features=pixels,
            embeddings=embeddings,
            image_index=image,
            target_index=target,
            masks=masks,
            image_sizes=[content_size(inputs) for inputs in batched_inputs],
            context={"location": locations},
        )

    def match(self, masks: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """Instances (Q,) and their cells (Q,), counted row by row. If several share a cell, the smallest one gets it.

        Args:
            masks: (K, H, W) bool, the masks of one image.
            columns: T, the number of columns of query cells.
        """
        order = masks.flatten(1).sum(1).argsort()
        x, y = (mask_centroids(masks)[order] / self.query_stride).long().unbind(1)
        cells = y * columns + x
        taken = (cells[:, None] == cells[None]).tril(-1).any(1)
        return order[~taken], cells[~taken]

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns each image's `instances`: scores, pred_classes, pred_masks (bool, output size), tight pred_boxes."""
        images = self.preprocess(batched_inputs)
        maps = [one.float() for one in self.predict(images.tensor)]
        results = []
        for logits, queries, pixels, size, inputs in zip(*maps, images.image_sizes, batched_inputs, strict=True):
            scores = logits.sigmoid()
            scores = scores * (scores == F.max_pool2d(scores, 3, stride=1, padding=1))  # one of neighbours
            score, place = scores.flatten().topk(min(self.max_detections * self.images_per_picture, scores.numel()))
            place = place[score > self.score_thresh]
            cell = place % scores[0].numel()
            locations = cell_centres(cell, scores.shape[2], self.query_stride)
            masks = mask_logits(
                queries.flatten(1)[:, cell].T, torch.zeros_like(cell), locations, pixels[None]
            ).sigmoid()
            result = Instances(output_size(inputs, size))
            result.scores, result.pred_classes = score[: len(place)], place // scores[0].numel()
            chunks = pasted_masks(masks, self.pixel_stride, (size[0], size[1]), result.image_size)
            result.pred_masks = self.gathered_masks(chunks, len(masks), result.image_size)
            result.pred_boxes = Boxes(boxes_around(result.pred_masks, self.device))
            results.append({"instances": result})
        return results


def conv_block(channels: int, width: int) -> list[nn.Module]:
    """A 3 x 3 convolution, GroupNorm, ReLU."""
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(32, width), nn.ReLU()]


def cell_centres(cells: Tensor, columns: int, stride: int) -> Tensor:
    """(n, 2) x, y in input pixels of cells (n,) that are counted row by row."""
    return torch.stack([cells % columns, cells // columns], dim=1).float() * stride + stride / 2


def mask_logits(embeddings: Tensor, image: Tensor, locations: Tensor, maps: Tensor) -> Tensor:
    """Logits (Q, Hf, Wf) of queries (Q, D + 1) at locations (Q, 2) on the maps (B, D, Hf, Wf) of their images (Q,)."""
    cells = torch.arange(maps[0, 0].numel(), device=maps.device)
    squared = squared_distances(locations, cell_centres(cells, maps.shape[3], Minimal.pixel_stride))
    return dot_product_maps(embeddings[:, :-1], image, maps) - far_away(embeddings, squared).view(-1, *maps.shape[2:])


def squared_distances(queries: Tensor, pixels: Tensor) -> Tensor:
    """(Q, P) squared distances of locations (Q, 2) and (P, 2), in units of 16 input pixels."""
    return ((queries[:, None] - pixels[None]) / 16).square().sum(2)


def far_away(embeddings: Tensor, squared: Tensor) -> Tensor:
    """The part of the logits that distances (Q, P) subtract; the last number of a query is its factor."""
    return F.softplus(embeddings[:, -1:]) * squared


def mean_dice(
    logits: Tensor, image: Tensor, target: Tensor, masks: Sequence[Tensor], valid: Tensor | None = None
) -> Tensor:
    """Mean dice loss of mask logits (Q, Hf, Wf); zero without any query. `dice_losses` describes the arguments."""
    size = (logits.shape[1], logits.shape[2])
    sampled = [strided_masks(mask, Minimal.pixel_stride, size) for mask in masks]
    return dice_losses(logits, image, target, sampled, valid).sum() / max(len(logits), 1)
