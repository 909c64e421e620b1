"""The base class of every segmenter: what training, evaluation and checkpoints need of it, with defaults.

It knows nothing of the method.

Shapes: B images, Q queries with a target, K_b instances of image b, (H, W) network input, (Hf, Wf) dense map of D channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from adet_iuq.modeling.layers.mask_sets import Chunk, Masks, encoded_masks, stacked_masks


@dataclass
class TrainingPass:
    """Everything that one forward pass in training returns."""

    losses: dict[str, Tensor]  # scalars by name; their sum is minimised
    features: Tensor  # (B, D, Hf, Wf), the dense map that masks are decoded from
    embeddings: Tensor  # (Q, d), queries that have a target
    image_index: Tensor  # (Q,) long, position of the query's image in the batch
    target_index: Tensor  # (Q,) long, row of masks[image_index]
    masks: list[Tensor]  # B x (K_b, H, W) bool, at the network input's resolution
    image_sizes: list[tuple[int, int]]  # B x (h, w), the part of the input that shows the scene, before padding
    context: dict[str, Tensor] = field(default_factory=dict)  # (Q, ...), what decoding needs besides the embedding
    instance_context: dict[str, list[Tensor]] = field(default_factory=dict)  # B x (K_b, ...), the context of instances
    # If the mask loss has its own copy of the queries: the tensors that this copy and `embeddings` were selected from.
    query_sources: list[Tensor] = field(default_factory=list)


class Segmenter(nn.Module, ABC):
    """A meta-architecture that this project's trainer, evaluation and checkpoints accept.

    A subclass implements `training_pass` and `inference`, and overrides the defaults below that do not fit it.
    """

    # Names, prefixes or suffixes of tensors that carry no information and that a checkpoint may lack.
    optional_checkpoint_keys: tuple[str, ...] = ()
    # For the guard against collapsed masks: the name of the mask loss, its largest value (for a dice loss its weight), and
    # the share of that value from which on all masks count as empty. The share is below 1 because the loss of empty masks
    # stays a little below the largest value: their logits are below zero, but their probabilities are not zero.
    mask_loss_name: str = "loss_mask"
    mask_loss_ceiling: float = 1.0
    mask_loss_collapsed: float = 0.95
    # The dense map: its channels, the pixels of the network input between its cells, and the pixel that supervises cell 0.
    pixel_dim: int = 256
    pixel_stride: int = 4
    pixel_offset: float = 1.5
    # Where cell 0 lies for a query that reads positions; None: in the middle of the cell, at stride / 2.
    pixel_nominal_offset: float | None = None
    # The bytes that decoding takes for each pair of a query and a pixel, backward pass included; it only steers chunk sizes.
    bytes_per_pair: int = 0
    # The number of images in one picture; `inference` allows as many times the detections. It is 4 for evaluated mosaics.
    images_per_picture: int = 1
    # Whether `inference` returns masks as run lengths; only evaluations that read these switch it on
    # (`encoding_masks`).
    masks_encoded: bool = False

    pixel_mean: Tensor
    pixel_std: Tensor
    iteration: int = 0

    def __init__(self, *, pixel_mean: Sequence[float], pixel_std: Sequence[float], size_divisibility: int = 0) -> None:
        """
        Args:
            pixel_mean: mean of each input channel, in the units of the image.
            pixel_std: deviation of each input channel, in the same units.
            size_divisibility: the padded input's sides are multiples of it; 0: they are those of the largest image.
        """
        super().__init__()
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from a config, for detectron2's `@configurable`."""
        raise NotImplementedError(f"{cls.__name__} cannot be built from a config: it has no from_config.")

    @property
    def device(self) -> torch.device:
        """The device that holds the model, and that its images are brought to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Returns losses by name in training, and results in evaluation.

        Args:
            batched_inputs: one dict per image with `image` (3, H, W) in INPUT.FORMAT. In training also `instances` with
                gt_boxes, gt_classes and gt_masks; in evaluation optionally `height` and `width`, the output's size.
        """
        return self.training_pass(batched_inputs).losses if self.training else self.inference(batched_inputs)

    @abstractmethod
    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """One forward pass in training, which returns the losses and what they were computed from.

        Measurements on held-out images call it in evaluation mode. No layer may then update its statistics.
        """

    @abstractmethod
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The results of each image in detectron2's format, for example a dict with `instances`."""

    @contextmanager
    def pictures_of(self, images: int) -> Iterator[None]:
        """While the context lasts, each picture holds this number of images."""
        before, self.images_per_picture = self.images_per_picture, images
        try:
            yield
        finally:
            self.images_per_picture = before

    @contextmanager
    def encoding_masks(self, wanted: bool = True) -> Iterator[None]:
        """While the context lasts and if wanted, `pred_masks` are `EncodedMasks`: large images take gigabytes otherwise."""
        before, self.masks_encoded = self.masks_encoded, wanted
        try:
            yield
        finally:
            self.masks_encoded = before

    def gathered_masks(self, chunks: Iterable[Chunk], number: int, size: tuple[int, int]) -> Masks:
        """The masks of one image's results in the form that `inference` returns.

        Args:
            chunks: (n, *size) bool each, or n masks in a window, a few masks at a time.
            number: the number of masks in all chunks.
            size: (height, width) of the output.
        """
        return encoded_masks(chunks, size) if self.masks_encoded else stacked_masks(chunks, number, size, self.device)

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """The normalised images, padded with zeros right and below to a common size."""
        images = [(inputs["image"].to(self.device) - self.pixel_mean) / self.pixel_std for inputs in batched_inputs]
        return ImageList.from_tensors(images, self.size_divisibility)

    def set_iteration(self, iteration: int) -> None:
        """Sets the iteration; the trainer calls it before every step."""
        self.iteration = iteration

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed training needs besides the checkpoint's weights and buffers; the same on every rank."""
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads a state that `training_state` returned."""

    def iuq_state(self) -> dict[str, Tensor]:
        """State that is spread over the ranks. This is a collective call, which returns the whole state to rank 0."""
        return {}

    def load_iuq_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads a state that `iuq_state` returned, on every rank."""

    @classmethod
    def images_per_batch(cls, cfg: CfgNode) -> int:
        """The number of images that one iteration reads over all ranks; only a trainer with a config asks for it.

        Raises:
            UserError: SOLVER.IMS_PER_BATCH does not suit the segmenter.
        """
        return int(cfg.SOLVER.IMS_PER_BATCH)

    @classmethod
    def accumulation_caveat(cls, cfg: CfgNode) -> str:
        """What a user who accumulates gradients over micro-batches should know; only a trainer with a config asks for it."""
        return ""


def content_size(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """(h, w) of the scene from the top left corner: the input's `content_size` if the mapper padded the image."""
    height, width = inputs.get("content_size", inputs["image"].shape[-2:])
    return int(height), int(width)


def output_size(inputs: Mapping[str, Any], input_size: Sequence[int]) -> tuple[int, int]:
    """The wanted (height, width) of an image's results; the size of the network's input if none is given."""
    return int(inputs.get("height", input_size[0])), int(inputs.get("width", input_size[1]))
