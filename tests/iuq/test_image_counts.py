"""Counts of images against plain Python."""

from collections import Counter

import pytest
import torch

from adet_iuq.iuq.image_counts import ImageCounts, count_images, count_visits


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_count_images_in_chunks(chunk: int) -> None:
    ids = torch.randint(-1, 9, (100,), generator=torch.Generator().manual_seed(0))
    counted = Counter(image for image in ids.tolist() if image >= 0)
    images, counts = count_images(ids, chunk)
    assert images.tolist() == sorted(counted)
    assert counts.tolist() == [counted[image] for image in images.tolist()]


def test_count_visits_counts_runs() -> None:
    ids, visits = count_visits(torch.tensor([5, 5, -1, 5, 2, 5, 9, 9, -1, 2]))
    assert ids.tolist() == [2, 5, 9] and visits.tolist() == [2, 2, 1]
    assert len(count_visits(torch.zeros(0, dtype=torch.long)).ids) == 0


def test_lookup() -> None:
    counts, asked = ImageCounts(torch.tensor([2, 5, 9]), torch.tensor([4, 1, 7])), torch.tensor([9, 3, 2, 100, -1])
    assert counts.of(asked).tolist() == [7, 0, 4, 0, 0]
    pixels, images = counts.foreign(asked)
    assert pixels.tolist() == [5, 12, 8, 12, 12] and images.tolist() == [2, 3, 2, 3, 3]
    nothing = ImageCounts(asked[:0], asked[:0])
    assert nothing.of(asked).tolist() == [0] * 5
    assert nothing.foreign(asked)[1].tolist() == [0] * 5
