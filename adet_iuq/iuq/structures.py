"""What the method sees of a segmenter: queries, pixels, scenes, and the three functions that relate them.

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
        """The queries at `index`: (n,) long, (Q,) bool, or a slice."""
        return Queries(
            self.embeddings[index],
            self.image_index[index],
            self.target_index[index],
            {name: value[index] for name, value in self.context.items()},
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Queries:
        """Moved to `device`, floating-point tensors cast to `dtype`; gradients flow through."""
        return Queries(
            _cast(self.embeddings, device, dtype),
            _cast(self.image_index, device, dtype),
            _cast(self.target_index, device, dtype),
            {name: _cast(value, device, dtype) for name, value in self.context.items()},
        )


@dataclass
class Pixels:
    """Pixel embeddings, one a row, each of them complete for retrieval by any query of any image."""

    features: Tensor  # (P, D) float
    locations: Tensor  # (P, 2) float, x, y: NOMINAL position of the cell (CondInst: 8 j + 4, whatever Scene.offset is)
    image_ids: Tensor  # (P,) long, the same for all views of an image; -1 marks an empty slot
    context: dict[str, Tensor] = field(default_factory=dict)  # (P, ...) extras of a segmenter
    order: Tensor | None = None  # (P,) long, global sample index of the image; sorts rows that several ranks gather

    def __len__(self) -> int:
        return self.features.shape[0]

    def select(self, index: Tensor | slice) -> Pixels:
        """The pixels at `index`: (n,) long, (P,) bool, or a slice (then a view)."""
        return Pixels(
            self.features[index],
            self.locations[index],
            self.image_ids[index],
            {name: value[index] for name, value in self.context.items()},
            None if self.order is None else self.order[index],
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pixels:
        """Moved to `device`, floating-point tensors cast to `dtype`."""
        return Pixels(
            _cast(self.features, device, dtype),
            _cast(self.locations, device, dtype),
            _cast(self.image_ids, device, dtype),
            {name: _cast(value, device, dtype) for name, value in self.context.items()},
            None if self.order is None else _cast(self.order, device, dtype),
        )

    @staticmethod
    def cat(parts: Sequence[Pixels]) -> Pixels:
        """Rows of all parts (at least one), one after the other; all parts have the same context names."""
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
    sample_seeds: list[int] | None = None  # B; keys all random draws of an image (None: torch's global generator)
    sample_indices: list[int] | None = None  # B; position in the global sample stream
    instance_context: dict[str, list[Tensor]] = field(default_factory=dict)  # B x (K_b, ...), copied to Pixels.context
    # Which cells lie in an instance, as the segmenter's mask loss sees it: masks (K, H, W) bool and (Hf, Wf) to (K, Hf, Wf)
    # bool. None: those whose supervised pixel does.
    mask_cells: Callable[[Tensor, tuple[int, int]], Tensor] | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

    def views(self, images: slice) -> Scene:
        """The scene of a contiguous range of images, e.g. `slice(0, n)`; its queries count images from there."""
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
        """Nominal positions (P, 2) float32, x, y in input pixels, of flat cell indices (P,) = i * Wf + j."""
        width = self.features.shape[-1]
        offset = self.stride / 2 if self.nominal_offset is None else self.nominal_offset
        columns_rows = torch.stack([cells % width, cells // width], dim=1)
        return columns_rows.to(torch.float32) * self.stride + offset


def connected_zero(scene: Scene) -> Tensor:
    """A float32 zero that depends on features and embeddings, so that no parameter is left without a gradient.

    Sums of empty slices: unlike 0 * x they stay zero when x is not finite.
    """
    return scene.features[:0].float().sum() + scene.queries.embeddings[:0].float().sum()


class Retriever(Protocol):
    """The part of a query-based segmenter that the criterion calls."""

    # What `retrieve` takes, backward pass included, for each (query, pixel) pair, in bytes; 0 where it is little beside the
    # loss's own 32. It steers the chunk size of the inter-scene loss, never its value.
    bytes_per_pair: int

    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        """<q_n, i> of Eq. 4 for all pairs: (Q, P) logits."""
        ...

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        """Each query on the map of its own image: maps (B, D, Hf, Wf) to logits (Q, Hf, Wf)."""
        ...

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        """The segmenter's L_mask of logits (Q, Hf, Wf) against scene.masks; valid (B, Hf, Wf) bool leaves cells out.

        Zero without any query. It is called on every rank in each step, so that it may be a collective call.
        """
        ...
