"""What the method needs from a segmenter: queries, pixels, scenes, and the three functions that relate them.

Shape legend of the whole package:
    B        images of the forward pass (every view of an image counts)
    Q        matched queries in the batch
    P        pixels
    D, d     dimension of a pixel embedding, of a query embedding (CondInst: D = 8, d = 169; dot product: D = d)
    K_b      ground-truth instances of image b
    H, W     network input in pixels, h, w the image in it before padding (padding lies right and below)
    Hf, Wf   feature map; cell (i, j) is supervised by the input pixel (stride * i + offset, stride * j + offset)
Coordinates are x, y in pixels of the network input; pixel p of an axis sits at coordinate p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor


def _cast(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    """Moves a tensor; `dtype` applies to floating-point tensors only."""
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


@dataclass
class Queries:
    """Queries that have a target, i.e. those n for which sigma(n) exists."""

    embeddings: Tensor  # (Q, d) float
    image_index: Tensor  # (Q,) long, position of the image in the batch
    target_index: Tensor  # (Q,) long, sigma(n): row of Scene.masks[image_index]
    context: dict[str, Tensor] = field(default_factory=dict)  # (Q, ...) what retrieval needs besides

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def select(self, index: Tensor | slice) -> Queries:
        """The queries at `index`, which is (n,) long, (Q,) bool or a slice."""
        return Queries(
            self.embeddings[index],
            self.image_index[index],
            self.target_index[index],
            {name: value[index] for name, value in self.context.items()},
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Queries:
        """A copy on `device`, with floating-point tensors cast to `dtype`; gradients flow through."""
        return Queries(
            _cast(self.embeddings, device, dtype),
            _cast(self.image_index, device, dtype),
            _cast(self.target_index, device, dtype),
            {name: _cast(value, device, dtype) for name, value in self.context.items()},
        )


@dataclass
class Pixels:
    """Pixel embeddings, one per row. Each row holds all that a query of any image needs to retrieve it."""

    features: Tensor  # (P, D) float
    locations: Tensor  # (P, 2) float, x, y: NOMINAL position of the cell (CondInst: 8 j + 4, whatever Scene.offset is)
    image_ids: Tensor  # (P,) long, the same for all views of an image; -1 marks an empty slot
    context: dict[str, Tensor] = field(default_factory=dict)  # (P, ...) extras of a segmenter
    order: Tensor | None = None  # (P,) long, global sample index of the image; sorts rows that several ranks gather

    def __len__(self) -> int:
        return self.features.shape[0]

    def select(self, index: Tensor | slice) -> Pixels:
        """The pixels at `index`, which is (n,) long, (P,) bool or a slice (the result is then a view)."""
        return Pixels(
            self.features[index],
            self.locations[index],
            self.image_ids[index],
            {name: value[index] for name, value in self.context.items()},
            None if self.order is None else self.order[index],
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pixels:
        """A copy on `device`, with floating-point tensors cast to `dtype`."""
        return Pixels(
            _cast(self.features, device, dtype),
            _cast(self.locations, device, dtype),
            _cast(self.image_ids, device, dtype),
            {name: _cast(value, device, dtype) for name, value in self.context.items()},
            None if self.order is None else _cast(self.order, device, dtype),
        )

    @staticmethod
    def cat(parts: Sequence[Pixels]) -> Pixels:
        """The rows of all parts (at least one), one after the other. All parts have the same context names."""
        orders = [part.order for part in parts if part.order is not None]
        return Pixels(
            torch.cat([part.features for part in parts]),
            torch.cat([part.locations for part in parts]),
            torch.cat([part.image_ids for part in parts]),
            {name: torch.cat([part.context[name] for part in parts]) for name in parts[0].context},
            torch.cat(orders) if len(orders) == len(parts) else None,
        )


@dataclass
class Scene:
    """All that the method needs from one forward pass of a segmenter."""

    queries: Queries
    features: Tensor  # (B, D, Hf, Wf), the dense map I of Eq. 4
    stride: int
    offset: float  # input pixel that supervises cell i is stride * i + offset (differs by segmenter)
    masks: list[Tensor]  # B x (K_b, H, W) bool at network-input resolution, padded or not
    image_ids: Tensor  # (B,) long
    image_sizes: list[tuple[int, int]]  # B x (h, w) before padding
    nominal_offset: float | None = None  # Pixels.locations of cell i: stride * i + nominal_offset; None: stride / 2
    sample_seeds: list[int] | None = None  # B seeds for all random draws of an image (None: torch's global generator)
    sample_indices: list[int] | None = None  # B positions in the global sample stream
    instance_context: dict[str, list[Tensor]] = field(default_factory=dict)  # B x (K_b, ...), copied to Pixels.context
    # Gives the cells that lie in an instance, as the segmenter's mask loss sees them: from masks (K, H, W) bool and
    # (Hf, Wf) to (K, Hf, Wf) bool. None: the cells whose supervised pixel lies in it.
    mask_cells: Callable[[Tensor, tuple[int, int]], Tensor] | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

    def views(self, images: slice) -> Scene:
        """The scene of a contiguous range of images, e.g. `slice(0, n)`. Its queries count images from its start.

        Raises:
            ValueError: the range has a step.
        """
        start, stop, step = images.indices(len(self))
        if step != 1:
            raise ValueError(f"Scene.views takes a contiguous range of images, not the step {step}.")
        index = self.queries.image_index
        queries = self.queries.select((index >= start) & (index < stop))
        return replace(
            self,
            queries=replace(queries, image_index=queries.image_index - start),
            features=self.features[images],
            masks=self.masks[images],
            image_ids=self.image_ids[images],
            image_sizes=self.image_sizes[images],
            sample_seeds=None if self.sample_seeds is None else self.sample_seeds[images],
            sample_indices=None if self.sample_indices is None else self.sample_indices[images],
            instance_context={name: values[images] for name, values in self.instance_context.items()},
        )

    def cell_locations(self, cells: Tensor) -> Tensor:
        """Nominal positions (P, 2) float32, x, y in input pixels, of the flat cell indices (P,) = i * Wf + j."""
        width = self.features.shape[-1]
        offset = self.stride / 2 if self.nominal_offset is None else self.nominal_offset
        columns_rows = torch.stack([cells % width, cells // width], dim=1)
        return columns_rows.to(torch.float32) * self.stride + offset


def connected_zero(scene: Scene) -> Tensor:
    """A float32 zero that depends on features and embeddings, so that no parameter is left without a gradient.

    It sums empty slices: unlike 0 * x, such a sum stays zero when x is not finite.
    """
    return scene.features[:0].float().sum() + scene.queries.embeddings[:0].float().sum()


class Retriever(Protocol):
    """The part of a query-based segmenter that the criterion calls."""

    # The bytes that `retrieve` takes for each (query, pixel) pair, backward pass included; 0 where that is little
    # beside the 32 bytes of the loss itself. It steers the chunk size of the inter-scene loss, never its value.
    bytes_per_pair: int

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """The logits <q_n, i> of Eq. 4 for all pairs: (Q, P)."""
        ...

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """The logits of each query on the map of its own image: from maps (B, D, Hf, Wf) to (Q, Hf, Wf)."""
        ...

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The segmenter's L_mask of logits (Q, Hf, Wf) against scene.masks. Only cells in `valid` (B, Hf, Wf) count.

        It is zero without any query. Every rank calls it in each step, so it may be a collective call.
        """
        ...
