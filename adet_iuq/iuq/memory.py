"""The external memory of pixel embeddings, a ring buffer with the same content on every rank (section 3.3)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .consistency import check_same_on_all_ranks
from .distributed import all_gather_rows, gather_interleaved, rank, world_size
from .image_counts import ImageCounts, count_images, count_visits
from .randomness import keyed_generator
from .structures import Pixels

_CONTEXT = "context_"
# The rows of `cursor`.
_POINTER, _FILLED, _WRITES = 0, 1, 2


class PixelMemory(nn.Module):
    """Keeps the newest `capacity` pixels that all ranks enqueued.

    All state is in buffers, and none of them belongs to the model's `state_dict`: a trainer stores `state()` beside the
    weights. `enqueue` is a collective call. No gradient is ever stored, and none reaches the memory. The columns have
    no rows before something is stored or loaded, so a model that only evaluates spends nothing on them.

    With sharding, slot s lies on rank s % ranks only, in its row s // ranks; `cursor` counts slots of the whole memory
    and is the same everywhere. Every write, and every partly filled memory, is spread evenly to within one slot.

    Args:
        pixel_dim: the dimension D of a pixel embedding.
        capacity: number of pixels C (Table 4c); 0 holds exactly the pixels of the latest `enqueue`.
        dtype: float32, float16 or bfloat16, the dtype of the features only; positions and context stay float32.
        context: names and trailing shapes of `Pixels.context`, e.g. {"scale": ()}.
        seed: the seed of all random draws.
        shard: whether the columns are split over the ranks; the process group must exist before the memory does.
        check_period: the number of `enqueue`s between two comparisons of the ranks' contents. The first `enqueue` is
            followed by one too. 0: never.
    """

    features: Tensor  # (C, D), at first (0, D); with sharding only this rank's rows, like all columns
    locations: Tensor  # (C, 2) float32
    image_ids: Tensor  # (C,) long, -1 where empty
    cursor: Tensor  # (3,) long: slot of the next write, filled slots, number of writes so far

    def __init__(
        self,
        pixel_dim: int,
        *,
        capacity: int = 100_000,
        dtype: torch.dtype = torch.float32,
        context: Mapping[str, tuple[int, ...]] | None = None,
        seed: int = 0,
        shard: bool = False,
        check_period: int = 0,
    ) -> None:
        super().__init__()
        if capacity < 0:
            raise ValueError(f"The memory's capacity must be 0 or more, not {capacity}.")
        if not dtype.is_floating_point:
            raise ValueError(f"The memory stores floating-point features, not {dtype}.")
        self.capacity = capacity
        self.seed = seed
        self.context_shapes = dict(context or {})
        self.shard, self.ranks = (rank(), world_size()) if shard else (0, 1)
        self.check_period, self._enqueues = check_period, 0
        self.register_buffer("features", torch.zeros(0, pixel_dim, dtype=dtype), persistent=False)
        self.register_buffer("locations", torch.zeros(0, 2), persistent=False)
        self.register_buffer("image_ids", torch.zeros(0, dtype=torch.long), persistent=False)
        self.register_buffer("cursor", torch.zeros(3, dtype=torch.long), persistent=False)
        for name, shape in self.context_shapes.items():
            self.register_buffer(_CONTEXT + name, torch.zeros(0, *shape), persistent=False)

    def __len__(self) -> int:
        """Number of filled slots; with capacity 0 the number of rows of the latest `enqueue`."""
        return int(self.cursor[_FILLED])

    @property
    def fill(self) -> float:
        """Share of filled slots, 0 to 1; with capacity 0 it is 1 as soon as there is any pixel."""
        return len(self) / self.capacity if self.capacity else float(len(self) > 0)

    @property
    def sharded(self) -> bool:
        """Whether this rank holds only a part of the memory."""
        return self.ranks > 1

    def pixels(self) -> Pixels:
        """The filled slots (of this rank, with sharding) in slot order, not by age. The tensors are views: read them before
        the next `enqueue` (autograd notices if you do not). Slots whose pixel was not finite have id -1, like empty ones.
        """
        filled = slice(0, self._own_rows(len(self)))
        context = {name: self.get_buffer(_CONTEXT + name)[filled] for name in self.context_shapes}
        return Pixels(self.features[filled], self.locations[filled], self.image_ids[filled], context)

    def sample(self, count: int) -> tuple[Pixels, Tensor | None]:
        """A uniform sample of the filled slots, without repetition; the same on every rank until the next `enqueue`.

        Args:
            count: the number of pixels drawn from the whole memory; 0, -1 or at least as many as are filled: all of them.
                With sharding every rank draws its share from its own slots, at least one (so that sums stay unbiased).

        Returns:
            The sample of P pixels, and how many filled slots (of this rank, with sharding) each of them stands for,
            (P,) float32, so that sums weighted by it are unbiased. None: each pixel stands for itself.
        """
        pixels = self.pixels()
        share = max(self._own_rows(count), 1)
        if count <= 0 or len(pixels) <= share:
            return pixels, None
        generator = keyed_generator(self.seed, f"sample/{int(self.cursor[_WRITES])}/{self.shard}")
        # Sorted, because reading the slots in order is faster.
        chosen = torch.randperm(len(pixels), generator=generator)[:share].sort().values
        weights = torch.full((share,), len(pixels) / share, device=self.cursor.device)
        return pixels.select(chosen.to(self.cursor.device)), weights

    def image_counts(self) -> ImageCounts:
        """The images of the whole memory and their numbers of pixels. With sharding it is a collective call."""
        counts = count_images(self.pixels().image_ids)
        return ImageCounts.sum(*all_gather_rows(counts)) if self.sharded else counts

    def visits(self) -> ImageCounts:
        """How often each image of the whole memory was stored (`count_visits`). With sharding it is a collective call."""
        ids = self.pixels().image_ids
        if self.sharded:
            slots = self.shard + self.ranks * torch.arange(len(ids), device=ids.device)
            ids, slots = all_gather_rows([ids, slots])
            ids = ids[slots.argsort()]
        return count_visits(ids.roll(-int(self.cursor[_POINTER])))

    @torch.no_grad()
    def enqueue(self, pixels: Pixels) -> None:
        """Writes the pixels of all ranks over the oldest slots. Every rank must call it each step, even with 0 pixels.

        Rows are sorted by `pixels.order` (stable; by rank if there is none), so that the number of ranks does not matter. If
        there are more rows than the capacity, a uniform random subset of that size is written, the same on every rank.

        Raises:
            RuntimeError: `check_period` is set and the ranks' contents differ (raised on every rank), or the number of
                processes is not the one that the memory was split over.
        """
        if self.sharded and self.ranks != world_size():
            raise RuntimeError(f"The memory was split over {self.ranks} processes, but {world_size()} are running.")
        self._allocate()
        rows = self._gather(pixels)
        count = len(rows["image_ids"])
        if self.capacity == 0:
            self._replace(rows)
        elif count:
            if count > self.capacity:
                generator = keyed_generator(self.seed, f"memory/{int(self.cursor[_WRITES])}")
                kept = torch.randperm(count, generator=generator)[: self.capacity].sort().values
                rows = {name: value[kept.to(value.device)] for name, value in rows.items()}
                count = self.capacity
            self._write(rows, count)
        self.cursor[_WRITES] += 1
        if self.check_period > 0 and self._enqueues % self.check_period == 0:
            # Each process counts by itself: a tensor that may differ must not decide whether a rank takes part in the check.
            self._check_ranks()
        self._enqueues += 1

    def state(self) -> dict[str, Tensor]:
        """A copy of everything that is needed to continue exactly: the columns (C, ...) and `cursor`.

        With sharding it is a collective call: rank 0 gets the columns of the whole memory on the CPU, and the others
        get an empty dict. So the saved state does not depend on the number of ranks.
        """
        self._allocate()
        if self.sharded:
            total = self.capacity or len(self)
            columns = {name: gather_interleaved(self.get_buffer(name), total) for name in self._columns()}
            whole = {name: column for name, column in columns.items() if column is not None}
            return {**whole, "cursor": self.cursor.cpu().clone()} if whole else {}
        return {name: self.get_buffer(name).detach().clone() for name in (*self._columns(), "cursor")}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a `state()`.

        It may come from any number of ranks, with or without sharding. A state of another capacity is accepted with a
        warning: the newest pixels that fit are kept.

        Raises:
            ValueError: the state is that of another segmenter.
        """
        self._check_state(state)
        self._allocate()
        capacity = len(state["image_ids"])
        if capacity == self.capacity:
            for name in self._columns():
                self.get_buffer(name).copy_(state[name][self.shard :: self.ranks])
            self.cursor.copy_(state["cursor"])
            return
        if self.capacity == 0:
            self.cursor.copy_(state["cursor"])
            self.cursor[:_WRITES] = 0
            return
        warnings.warn(
            f"The saved pixel memory has capacity {capacity}, this one {self.capacity}: the newest pixels that fit are "
            "kept.",
            stacklevel=3,  # above no_grad's wrapper
        )
        pointer, filled, writes = state["cursor"].tolist()
        kept = min(filled, self.capacity)
        newest = (pointer - kept + torch.arange(kept)) % max(capacity, 1)
        self.image_ids.fill_(-1)
        self.cursor.zero_()
        self._write({name: state[name][newest.to(state[name].device)] for name in self._columns()}, kept)
        self.cursor[_WRITES] = writes

    def _columns(self) -> list[str]:
        """Names of the buffers that have one row per slot."""
        return ["features", "locations", "image_ids", *(_CONTEXT + name for name in self.context_shapes)]

    def _own_rows(self, slots: int) -> int:
        """How many of the first `slots` slots lie on this rank."""
        return len(range(self.shard, slots, self.ranks))

    def _allocate(self) -> None:
        """Allocates all slots if that has not been done yet."""
        if self.capacity == 0 or len(self.image_ids):
            return
        for name in self._columns():
            column = self.get_buffer(name)
            empty = -1 if name == "image_ids" else 0
            setattr(self, name, column.new_full((self._own_rows(self.capacity), *column.shape[1:]), empty))

    def _check_ranks(self) -> None:
        names = ["cursor"] if self.sharded else [*self._columns(), "cursor"]
        check_same_on_all_ranks({name: self.get_buffer(name) for name in names}, "pixel memory")

    def _gather(self, pixels: Pixels) -> dict[str, Tensor]:
        """The rows of all ranks, by column, in this memory's dtypes and in the global order."""
        if pixels.context.keys() != self.context_shapes.keys():
            raise ValueError(
                f"Pixels carry the context {sorted(pixels.context)}, the memory was built for "
                f"{sorted(self.context_shapes)}."
            )
        values = [pixels.features, pixels.locations, pixels.image_ids]
        values += [pixels.context[name] for name in self.context_shapes]
        like = [self.get_buffer(name) for name in self._columns()]
        local = [_convert(value, column) for value, column in zip(values, like, strict=True)]
        order = torch.zeros_like(local[2]) if pixels.order is None else pixels.order.to(local[2])
        *gathered, order = all_gather_rows([*local, order])
        by_sample = order.argsort(stable=True)
        rows = {name: value[by_sample] for name, value in zip(self._columns(), gathered, strict=True)}
        # A pixel that overflowed would spoil every loss until it is overwritten. So its slot counts as empty.
        finite = rows["features"].isfinite().all(dim=1)
        rows["features"] = rows["features"].masked_fill(~finite[:, None], 0.0)
        rows["image_ids"] = rows["image_ids"].masked_fill(~finite, -1)
        return rows

    def _write(self, rows: Mapping[str, Tensor], count: int) -> None:
        """Writes `count` <= capacity rows from the pointer on, modulo the capacity."""
        slots = (self.cursor[_POINTER] + torch.arange(count, device=self.cursor.device)) % self.capacity
        own = slots % self.ranks == self.shard if self.sharded else slice(None)
        places = slots[own] // self.ranks
        for name, value in rows.items():
            column = self.get_buffer(name)
            column[places] = value.to(column)[own]
        self.cursor[_POINTER] = (self.cursor[_POINTER] + count) % self.capacity
        self.cursor[_FILLED] = (self.cursor[_FILLED] + count).clamp(max=self.capacity)

    def _replace(self, rows: Mapping[str, Tensor]) -> None:
        """Makes the rows the whole content; for capacity 0."""
        for name, value in rows.items():
            setattr(self, name, value[self.shard :: self.ranks].contiguous())
        self.cursor[_FILLED] = len(rows["image_ids"])

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError unless `state` has this memory's columns and dimensions."""
        expected = {*self._columns(), "cursor"}
        if state.keys() != expected:
            raise ValueError(
                f"The saved pixel memory holds {sorted(state)}, this model needs {sorted(expected)}: it was saved by "
                "another segmenter or with other settings. Resume with those, or start a new run."
            )
        for name in self._columns():
            saved, own = tuple(state[name].shape[1:]), tuple(self.get_buffer(name).shape[1:])
            if saved != own:
                raise ValueError(
                    f"The saved pixel memory's '{name}' has rows of shape {saved}, this model's have {own}: it was "
                    "saved by another segmenter. Resume with that one, or start a new run."
                )


def _convert(value: Tensor, column: Tensor) -> Tensor:
    """`value` on the device and in the dtype of a column. Finite numbers beyond a half-precision range are clipped."""
    value = value.detach()
    if column.is_floating_point() and torch.finfo(column.dtype).max < torch.finfo(value.dtype).max:
        limit = torch.finfo(column.dtype).max
        value = torch.where(value.isfinite(), value.clamp(-limit, limit), value)
    return value.to(column)
