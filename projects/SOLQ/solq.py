"""SOLQ: learned queries, each of which is decoded into a class, a box and a vector that is its mask (arXiv 2106.02351).

The published model under its published names; the facts that it relies on stand in docs/parity/solq.md. Shapes: B images,
N queries, C channels, D decoder layers, Z logits, n coefficients, K instances of an image, (Hp, Wp) the padded input.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling import Segmenter, TrainingPass, content_size, output_size, part, settings_from
from adet_iuq.modeling.backbone import build_backbone
from adet_iuq.modeling.layers import instance_masks

from .boxes import centred, corners
from .criterion import set_losses
from .maps import MapGeometry
from .mask_codec import MaskCodec
from .matcher import Matches, Outputs, Targets, Weights, match
from .paste import pasted_patches
from .transformer import MLP, Sizes, Transformer


@dataclass
class Decoded:
    """The transformer's outputs for a batch."""

    memory: Tensor  # (B, S, C), all cells of all maps, finest first
    geometry: MapGeometry
    states: list[Tensor]  # D x (B, N, C), queries after each decoder layer
    boxes: list[Tensor]  # D x (B, N, 4) x, y, w, h as shares of the image

    def finest(self) -> Tensor:
        """(B, C, h, w), the memory of the finest map."""
        height, width = self.geometry.sizes[0]
        return self.memory[:, : height * width].transpose(1, 2).unflatten(2, (height, width))


@META_ARCH_REGISTRY.register()
class SOLQ(Segmenter):
    """The base segmenter, without instance-unique querying."""

    # A difference of vectors has no largest value, so no value of it shows a collapse.
    mask_loss_name = "loss_vector"
    mask_loss_ceiling = math.inf
    # The encoder's own convention: cell i of the finest map has its centre at (i + 0.5) * 8, which is pixel 8 i + 3.5.
    pixel_stride = 8
    pixel_offset = 3.5

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        sizes: Sizes,
        num_queries: int,
        vector_hidden_dim: int,
        codec: MaskCodec,
        class_logits: Sequence[int],
        weights: Weights,
        max_detections: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
        reduce_normalizer: bool = False,
    ) -> None:
        """
        Args:
            backbone: makes the maps of `in_features`, of which the finest has stride 8.
            in_features: the names of these maps, finest first.
            sizes: the sizes of the transformer.
            num_queries: the number of queries N; see config.py.
            vector_hidden_dim: the width of the mask head; see config.py.
            codec: converts masks to vectors and back.
            class_logits: the number of each class's logit; there are as many logits as the largest number needs.
            weights: the weights of the losses.
            max_detections: the most detections of an image.
            pixel_mean: mean of each input channel.
            pixel_std: deviation of each input channel.
            size_divisibility: the padded input's sides are multiples of it; see config.py.
            reduce_normalizer: see MODEL.REDUCE_NORMALIZER.
        """
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=size_divisibility)
        width, layers = sizes.hidden_dim, sizes.dec_layers
        shapes = [backbone.output_shape()[name] for name in in_features]
        # The parts have the published order: a tensor that has two names gets the weights of the last one.
        self.transformer = Transformer(sizes, len(in_features) + 1)
        self.class_embed = nn.ModuleList(nn.Linear(width, max(class_logits) + 1) for _ in range(layers))
        self.bbox_embed = nn.ModuleList(MLP([width, width, width, 4]) for _ in range(layers))
        vector_head = MLP([width, vector_hidden_dim, vector_hidden_dim, len(codec.row)])
        self.vector_embed = nn.ModuleList([vector_head] * layers)
        self.query_embed = nn.Embedding(num_queries, 2 * width)
        self.input_proj = nn.ModuleList(_projection(one.channels, width, kernel=1) for one in shapes)
        self.input_proj.append(_projection(shapes[-1].channels, width, kernel=3))
        self.backbone = nn.ModuleList([nn.ModuleDict({"body": backbone})])
        self.transformer.decoder.bbox_embed = self.bbox_embed
        self.codec, self.weights, self.in_features = codec, weights, list(in_features)
        self.max_detections, self.reduce_normalizer = max_detections, reduce_normalizer
        self.pixel_dim = width
        self.class_logits: Tensor
        self.register_buffer("class_logits", torch.as_tensor(class_logits), persistent=False)
        self._reset_heads()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        solq = cfg.MODEL.SOLQ
        return {
            "backbone": build_backbone(cfg),
            "in_features": solq.IN_FEATURES,
            "sizes": settings_from(Sizes, solq, "MODEL.SOLQ"),
            "num_queries": solq.NUM_QUERIES,
            "vector_hidden_dim": solq.VECTOR_HIDDEN_DIM,
            "codec": MaskCodec(solq.MASK_SIDE, solq.NUM_COEFFICIENTS),
            "class_logits": category_ids(cfg) if solq.CATEGORY_IDS else range(solq.NUM_CLASSES),
            "weights": settings_from(Weights, solq, "MODEL.SOLQ"),
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": solq.SIZE_DIVISIBILITY,
            "reduce_normalizer": cfg.MODEL.REDUCE_NORMALIZER,
        }

    @torch.no_grad()
    def _reset_heads(self) -> None:
        """Initialises as published: scores start at 0.01, boxes at the references, vectors as if they were boxes."""
        class_heads: Any = self.class_embed
        for head in class_heads:
            nn.init.constant_(head.bias, -math.log(99))
        mlps: Any = (*self.bbox_embed, self.vector_embed[0])
        lasts = [mlp.layers[-1] for mlp in mlps]
        for last in lasts:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        for last in (lasts[0], lasts[-1]):
            last.bias[2:] = -2.0

    def decode(self, images: ImageList) -> Decoded:
        """Runs everything except the heads of classes and vectors."""
        with part("backbone"):
            network: Any = self.backbone[0]
            maps = network["body"](images.tensor)
        with part("heads"):
            raw = [maps[name] for name in self.in_features]
            projected = [project(one) for project, one in zip(self.input_proj, [*raw, raw[-1]], strict=True)]
            geometry = MapGeometry.of(images.image_sizes, projected, images.tensor)
            memory = self.transformer.encode(projected, geometry)
            states, boxes = self.transformer.decode(memory, self.query_embed.weight, geometry)
        return Decoded(memory, geometry, states, boxes)

    @part("targets")
    def targets(self, batched_inputs: list[dict[str, Any]], frame: tuple[int, int]) -> list[Targets]:
        """Labels, boxes and vectors of every image, on the model's device.

        Args:
            batched_inputs: the inputs of a training.
            frame: (Hp, Wp), to which masks are padded before they are cropped, as published.
        """
        results = []
        for inputs in batched_inputs:
            instances: Instances = inputs["instances"].to(self.device)
            height, width = instances.image_size
            masks, boxes = instance_masks(instances), instances.gt_boxes.tensor
            padded = F.pad(masks, (0, frame[1] - masks.shape[2], 0, frame[0] - masks.shape[1]))
            vectors = self.codec.encode(self.codec.crop(padded, boxes))
            shares = centred(boxes) / boxes.new_tensor([width, height, width, height])
            results.append(Targets(self.class_logits[instances.gt_classes], shares, vectors))
        return results

    @part("heads")
    def outputs(self, decoded: Decoded) -> Outputs:
        """The outputs of the heads after all layers."""
        logits = [head(state) for head, state in zip(self.class_embed, decoded.states, strict=True)]
        vectors = self.vector_embed[0](torch.stack(decoded.states))
        return Outputs(torch.stack(logits), torch.stack(decoded.boxes), vectors)

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """Computes the losses of all layers; queries are the matched ones of the last layer, on the finest map's memory."""
        images = self.preprocess(batched_inputs)
        decoded = self.decode(images)
        targets = self.targets(batched_inputs, (images.tensor.shape[2], images.tensor.shape[3]))
        outputs = self.outputs(decoded)
        with part("targets"):
            matches: list[Matches] = match(outputs, targets, self.weights)
        with part("losses"), torch.autocast(self.device.type, enabled=False):
            losses = set_losses(outputs, targets, matches, self.weights, reduce=self.reduce_normalizer)
        last = matches[-1]
        return TrainingPass(
            losses=losses,
            features=decoded.finest(),
            embeddings=decoded.states[-1][last.image, last.query],
            image_index=last.image,
            target_index=last.target,
            masks=[instance_masks(inputs["instances"].to(self.device)) for inputs in batched_inputs],
            image_sizes=[content_size(inputs) for inputs in batched_inputs],
        )

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns each image's `instances`: scores, pred_classes, pred_boxes (as predicted, not clipped), pred_masks."""
        images = self.preprocess(batched_inputs)
        decoded = self.decode(images)
        with part("heads"):
            logits = self.class_embed[-1](decoded.states[-1]).float()
            vectors = self.vector_embed[-1](decoded.states[-1]).float()
        boxes = decoded.boxes[-1].float()
        sizes = [output_size(one, size) for one, size in zip(batched_inputs, images.image_sizes, strict=True)]
        found = zip(logits, boxes, vectors, sizes, strict=True)
        return [{"instances": self.results(*one)} for one in found]

    @part("postprocess")
    def results(self, logits: Tensor, boxes: Tensor, vectors: Tensor, size: tuple[int, int]) -> Instances:
        """The best pairs of a query and a class in one image, without suppression or a lowest score.

        Args:
            logits: (N, Z) float32, the class logits.
            boxes: (N, 4) float32, the boxes.
            vectors: (N, n) float32, the mask vectors.
            size: (height, width) of the output.
        """
        scores = logits.sigmoid()[:, self.class_logits]
        best, place = scores.flatten().topk(min(self.max_detections * self.images_per_picture, scores.numel()))
        query = place // scores.shape[1]
        result = Instances(size)
        result.scores, result.pred_classes = best, place % scores.shape[1]
        scale = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        result.pred_boxes = Boxes(corners(boxes[query]) * scale)
        chunks = pasted_patches(self.codec.decode(vectors[query]), result.pred_boxes.tensor, size)
        result.pred_masks = self.gathered_masks(chunks, len(query), size)
        return result


def _projection(channels: int, width: int, kernel: int) -> nn.Sequential:
    """A projection to the transformer's channels, at the map's own size (kernel 1) or at half of it (kernel 3)."""
    convolution = nn.Conv2d(channels, width, kernel, stride=(kernel + 1) // 2, padding=kernel // 2)
    assert convolution.bias is not None
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(32, width))


def category_ids(cfg: CfgNode) -> list[int]:
    """The category id of every class of the (first) training set, or else of the first test set.

    Raises:
        UserError: the data set has no category ids.
    """
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    numbers = MetadataCatalog.get(names[0]).get("thing_dataset_id_to_contiguous_id") if names else None
    if not numbers:
        raise UserError(
            "MODEL.SOLQ.CATEGORY_IDS wants a logit for each category id, but "
            f"{names[0] if names else 'an empty DATASETS.TRAIN'} tells none. Set it to False."
        )
    return sorted(numbers, key=lambda number: numbers[number])
