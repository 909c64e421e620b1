"""The trunk: what a segmenter is to training, evaluation and checkpoints, with defaults. It knows nothing of the method.

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

from adet_iuq.modeling.layers.mask_sets import Masks, encoded_masks, stacked_masks


@dataclass
class TrainingPass:
    """All that one forward pass in training leaves behind."""

    losses: dict[str, Tensor]  # scalars by name; their sum is minimised
    features: Tensor  # (B, D, Hf, Wf), the dense map that masks are decoded from
    embeddings: Tensor  # (Q, d), queries that have a target
    image_index: Tensor  # (Q,) long, position of the query's image in the batch
    target_index: Tensor  # (Q,) long, row of masks[image_index]
    masks: list[Tensor]  # B x (K_b, H, W) bool, at the network input's resolution
    image_sizes: list[tuple[int, int]]  # B x (h, w) that the scene fills, before padding
    context: dict[str, Tensor] = field(default_factory=dict)  # (Q, ...), what decoding needs besides the embedding
    instance_context: dict[str, list[Tensor]] = field(default_factory=dict)  # B x (K_b, ...), the same of an instance
    # Where the mask loss has its own copy of the queries: the tensors that it and `embeddings` were selected from.
    query_sources: list[Tensor] = field(default_factory=list)


class Segmenter(nn.Module, ABC):
    """A meta-architecture that the trainer, the evaluation and the checkpoints of this project take.

    A subclass implements `training_pass` and `inference`, and overrides those of the defaults below that do not fit it.
    """

    # Names, prefixes or suffixes of tensors that carry no information and may be missing from a checkpoint.
    optional_checkpoint_keys: tuple[str, ...] = ()
    # The loss that shows whether masks are found, its greatest value (a dice loss: its weight), and the share of that value
    # from which on all masks are empty: logits are then below zero, and not yet so far that nothing is left of the overlap.
    mask_loss_name: str = "loss_mask"
    mask_loss_ceiling: float = 1.0
    mask_loss_collapsed: float = 0.95
    # The dense map: its channels, pixels of the network input from cell to cell, and the pixel that supervises cell 0.
    pixel_dim: int = 256
    pixel_stride: int = 4
    pixel_offset: float = 1.5
    # Where cell 0 lies as seen by a query that reads positions; None: at the middle, stride / 2.
    pixel_nominal_offset: float | None = None
    # What decoding takes for each pair of a query and a pixel, its backward pass included; it steers chunk sizes only.
    bytes_per_pair: int = 0
    # Images in one picture: `inference` allows so many times its number of detections. 4 while mosaics are evaluated.
    images_per_picture: int = 1
    # Whether `inference` gives masks as run lengths; only evaluations that read these switch it on (`encoding_masks`).
    masks_encoded: bool = False

    pixel_mean: Tensor
    pixel_std: Tensor
    iteration: int = 0

    def __init__(self, *, pixel_mean: Sequence[float], pixel_std: Sequence[float], size_divisibility: int = 0) -> None:
        """
        Args:
            pixel_mean, pixel_std: of the input's channels, in the units of the image.
            size_divisibility: the padded input's sides are multiples of it; 0: as large as the largest image.
        """
        super().__init__()
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Arguments of the constructor from a config, for detectron2's `@configurable`."""
        raise NotImplementedError(f"{cls.__name__} cannot be built from a config: it has no from_config.")

    @property
    def device(self) -> torch.device:
        """Where the model lives, and its images are brought."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses by name in training, results in evaluation.

        Args:
            batched_inputs: per image `image` (3, H, W) in INPUT.FORMAT; in training `instances` with gt_boxes,
                gt_classes and gt_masks; in evaluation optionally `height` and `width` of the wished output.
        """
        return self.training_pass(batched_inputs).losses if self.training else self.inference(batched_inputs)

    @abstractmethod
    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        """One forward pass in training: the losses, and what they were made of.

        Measurements on held-out images call it in evaluation mode, where no layer may update its statistics.
        """

    @abstractmethod
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results of each image, in detectron2's format: a dict with `instances`, for example."""

    @contextmanager
    def pictures_of(self, images: int) -> Iterator[None]:
        """Inside, each picture holds so many images."""
        before, self.images_per_picture = self.images_per_picture, images
        try:
            yield
        finally:
            self.images_per_picture = before

    @contextmanager
    def encoding_masks(self, wanted: bool = True) -> Iterator[None]:
        """Inside, `pred_masks` of results are `EncodedMasks`, if that is wanted: large images take gigabytes otherwise."""
        before, self.masks_encoded = self.masks_encoded, wanted
        try:
            yield
        finally:
            self.masks_encoded = before

    def gathered_masks(self, chunks: Iterable[Tensor], number: int, size: tuple[int, int]) -> Masks:
        """The masks of one image's results as `inference` is to give them.

        Args:
            chunks: (n, *size) bool each, `number` masks in all, a few at a time.
            number: of masks.
            size: (height, width) of the output.
        """
        return encoded_masks(chunks, size) if self.masks_encoded else stacked_masks(chunks, number, size, self.device)

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalised images, zero padded right and below to a common size."""
        images = [(inputs["image"].to(self.device) - self.pixel_mean) / self.pixel_std for inputs in batched_inputs]
        return ImageList.from_tensors(images, self.size_divisibility)

    def set_iteration(self, iteration: int) -> None:
        """The trainer tells the iteration before every step."""
        self.iteration = iteration

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed training needs besides weights and buffers of the checkpoint; the same on every rank."""
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `training_state` gave."""

    def iuq_state(self) -> dict[str, Tensor]:
        """State that is spread over the ranks. A collective call, from which rank 0 gets the whole of it."""
        return {}

    def load_iuq_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `iuq_state` gave, on every rank."""

    @classmethod
    def images_per_batch(cls, cfg: CfgNode) -> int:
        """Images that one iteration reads over all ranks; only a trainer with a config asks.

        Raises:
            UserError: SOLVER.IMS_PER_BATCH does not suit the segmenter.
        """
        return int(cfg.SOLVER.IMS_PER_BATCH)

    @classmethod
    def accumulation_caveat(cls, cfg: CfgNode) -> str:
        """What a user who accumulates gradients over micro-batches should know; only a trainer with a config asks."""
        return ""


def content_size(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """(h, w) that the scene fills, from the top left corner: `content_size` of an image that the mapper padded."""
    height, width = inputs.get("content_size", inputs["image"].shape[-2:])
    return int(height), int(width)


def output_size(inputs: Mapping[str, Any], input_size: Sequence[int]) -> tuple[int, int]:
    """The wished (height, width) of an image's results; its size at the network's input where none is wished."""
    return int(inputs.get("height", input_size[0])), int(inputs.get("width", input_size[1]))
