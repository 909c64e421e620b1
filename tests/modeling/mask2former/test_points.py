"""The points at which masks are compared: how bit masks and cells are sampled there, and which points are chosen."""

import pytest
import torch
from torch import Tensor

from adet_iuq.modeling.mask2former import points as points_module
from adet_iuq.modeling.mask2former.points import (
    avoids_invalid,
    sample_bit_masks,
    sample_cells,
    sample_maps,
    uncertain_points,
    uniform_points,
)
from helpers.mask2former_scene import FRAME, pad


def test_bit_masks_are_sampled_like_float_maps() -> None:
    masks = torch.rand(4, 30, 40) > 0.5
    points = torch.rand(4, 500, 2) * 1.2 - 0.1
    expected = sample_maps(pad(masks)[:, None], points)[:, 0]
    torch.testing.assert_close(sample_bit_masks(masks, points, FRAME), expected, rtol=0, atol=1e-5)
    shared = sample_bit_masks(masks, points[:1], FRAME)
    torch.testing.assert_close(shared[0], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(shared, sample_maps(pad(masks)[None], points[:1])[0], rtol=0, atol=1e-5)
    rows = torch.tensor([3, 0, 0, 1])
    chosen = sample_bit_masks(masks, points, FRAME, rows)
    torch.testing.assert_close(chosen, sample_maps(pad(masks)[rows, None], points)[:, 0], rtol=0, atol=1e-5)


def test_cells_side_by_side_are_sampled_as_maps() -> None:
    maps, points = torch.randn(2, 5, 8, 12), torch.rand(2, 60, 2)
    points[0, :4] = torch.tensor(
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    )  # half of their neighbours lie outside
    cells = maps.flatten(2).mT.contiguous()
    torch.testing.assert_close(sample_cells(cells, (8, 12), points).mT, sample_maps(maps, points))


def test_most_points_lie_where_the_mask_is_uncertain() -> None:
    # Fixed, because logits shrink within half a cell of the frame: one draw in ten has a chosen point there, farther out.
    torch.manual_seed(0)
    logits = torch.linspace(-10, 10, 64).expand(2, 64, 64).contiguous()  # zero in the middle column
    points = uncertain_points(logits, 100, oversample_ratio=3.0, importance_ratio=0.75, source=uniform_points)
    assert points.shape == (2, 100, 2)
    from_edge = (points[..., 0] - 0.5).abs()
    assert (from_edge[:, :75] < 0.2).all() and (from_edge[:, 75:] > 0.2).any()
    assert len(points.unique(dim=1)[0]) == 100


def test_bits_do_not_depend_on_the_size_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, points, rows = torch.rand(5, 30, 40) > 0.5, torch.rand(7, 50, 2), torch.randint(0, 5, (7,))

    def read() -> tuple[Tensor, Tensor]:
        return sample_bit_masks(masks, points, FRAME, rows), sample_bit_masks(masks, points[:1], FRAME)

    own, shared = read()
    for size in (1, 2 * 50 * points_module._OWN_BYTES):  # one mask at a time, and two
        monkeypatch.setattr(points_module, "_CHUNK_BYTES", {"cpu": size})
        assert all(map(torch.equal, read(), (own, shared)))


@pytest.mark.parametrize("masked", [False, True])
def test_points_do_not_depend_on_the_size_of_a_chunk(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    fixed = torch.rand(120, 2)
    logits, valid = torch.randn(5, 16, 16), (torch.rand(5, 16, 16) > 0.2).float() if masked else None

    def chosen() -> Tensor:
        return uncertain_points(
            logits, 40, oversample_ratio=3.0, importance_ratio=0.75, valid=valid,
            source=lambda rows, count, device: fixed[:count].expand(rows, -1, -1),
        )  # fmt: skip

    whole = chosen()
    two_masks = 2 * 120 * points_module._CANDIDATE_BYTES
    monkeypatch.setattr(points_module, "_CHUNK_BYTES", {"cpu": two_masks})
    assert torch.equal(chosen(), whole) and len(whole) == 5


def test_points_near_invalid_cells_come_last() -> None:
    logits, valid = torch.zeros(1, 16, 16), torch.ones(1, 16, 16)
    valid[:, :, 8:] = 0
    points = uncertain_points(
        logits, 100, oversample_ratio=4.0, importance_ratio=0.75, source=uniform_points, valid=valid
    )
    assert avoids_invalid(valid, points)[:, :75].all()
    assert points[0, :75, 0].max() <= 7.51 / 16  # beyond, cell 8 has a share
