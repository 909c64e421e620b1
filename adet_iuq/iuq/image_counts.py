"""Which images a memory holds: the number of pixels of each image, and how often it was stored."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ImageCounts(NamedTuple):
    """Images, and a number for each: how many pixels or how many visits it has."""

    ids: Tensor  # (images,) long, ascending
    counts: Tensor  # (images,) long, at least 1 each

    @staticmethod
    def sum(ids: Tensor, counts: Tensor) -> ImageCounts:
        """The sums per image, from ids (n,) long, which may repeat, and the number that belongs to each, (n,) long."""
        ids, place = torch.unique(ids, return_inverse=True)
        return ImageCounts(ids, torch.zeros_like(ids).index_add(0, place, counts))

    def of(self, ids: Tensor) -> Tensor:
        """The count of the image of each of `ids`, (n,) long: (n,) long. An image that is not here has the count 0."""
        if len(self.ids) == 0:
            return torch.zeros_like(ids)
        # A binary search instead of comparing all with all, so that the cost stays far below that of the loss itself.
        position = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        return self.counts[position] * (self.ids[position] == ids)

    def foreign(self, query_ids: Tensor) -> tuple[Tensor, Tensor]:
        """For the image of each query, (Q,) long: the sum of counts and the number of all other images, (Q,) long."""
        own = self.of(query_ids)
        return self.counts.sum() - own, len(self.ids) - (own > 0).long()


def count_images(pixel_ids: Tensor, chunk: int = 2**17) -> ImageCounts:
    """Counts the pixels of each image in (P,) long, -1 for an empty slot. Sorting `chunk` at a time bounds the memory."""
    total = ImageCounts(pixel_ids.new_zeros(0), pixel_ids.new_zeros(0))
    for part in pixel_ids.split(chunk):
        ids, counts = torch.unique(part[part >= 0], return_counts=True)
        total = ImageCounts.sum(torch.cat([total.ids, ids]), torch.cat([total.counts, counts]))
    return total


def count_visits(pixel_ids: Tensor) -> ImageCounts:
    """How often each image was stored, from the image of every pixel in the order of writing, (P,) long, -1 for empty.

    The pixels of an image are written one after the other, so every uninterrupted run of them is one visit. A visit
    counts fully, however many of its pixels were overwritten since; two visits with nothing in between count as one.
    """
    runs = torch.unique_consecutive(pixel_ids[pixel_ids >= 0])
    return ImageCounts(*torch.unique(runs, return_counts=True))
