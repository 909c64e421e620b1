"""Rows of matched pairs, against picking them image by image."""

import torch

from adet_iuq.modeling.layers import pair_rows


def test_rows_of_pairs() -> None:
    values = [torch.arange(3), torch.zeros(0, dtype=torch.long), 10 + torch.arange(2)]
    image, target = torch.tensor([2, 0, 2]), torch.tensor([1, 2, 0])
    rows = pair_rows([len(one) for one in values], image, target)
    assert torch.cat(values)[rows].tolist() == [values[i][t].item() for i, t in zip(image, target, strict=True)]


def test_no_pairs() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert pair_rows([0, 0], none, none).tolist() == []
