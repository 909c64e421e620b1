"""CropFlip: image, masks, boxes, points and feature maps must tell the same story."""

import math

import pytest
import torch
from torch import Tensor

from adet_iuq.iuq import CropFlip, keyed_generator, masks_at_cells, warp_features

SIZE = (75, 101)  # unpadded (H, W), no multiple of any stride
MAPS = [(8, 4.0), (8, 6.0), (8, 5.0), (4, 2.0), (4, 1.5), (16, 8.0), (1, 0.0)]  # stride, offset
ODD = CropFlip(x0=16, y0=32, w=50, h=41, flip=True)  # u is fractional for most maps


def _draws(count: int, stride: int, offset: float, size: tuple[int, int] = SIZE) -> list[CropFlip]:
    return [CropFlip.sample(keyed_generator(seed, "test"), size, stride=stride, offset=offset) for seed in range(count)]


def _map_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Map of the frame padded to a multiple of 32, as a backbone gives it."""
    height, width = (math.ceil(side / 32) * 32 // stride for side in size)
    return height, width


def _content(size: tuple[int, int]) -> Tensor:
    """Two channels that say where in the untransformed image a pixel is, (2, H, W): x and y."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.stack([x, y]).double()


def _perfect_map(content: Tensor, stride: int, offset: float, map_size: tuple[int, int]) -> Tensor:
    """A perfectly equivariant network: a cell says the content of its supervised pixel. Padding says 1e6."""
    out = torch.full((len(content), *map_size), 1e6, dtype=content.dtype)
    for i in range(map_size[0]):
        for j in range(map_size[1]):
            y, x = stride * i + offset, stride * j + offset
            if y <= content.shape[1] - 1 and x <= content.shape[2] - 1:
                whole = content[:, math.floor(y), math.floor(x)]
                later = content[:, math.ceil(y), math.ceil(x)]
                out[:, i, j] = (whole + later) / 2  # offsets are whole or half
    return out


@pytest.mark.parametrize(("stride", "offset"), MAPS)
def test_warping_an_equivariant_map_is_exact(stride: int, offset: float) -> None:
    """Positions are linear, so interpolation between cells is exact, and padding must never leak in."""
    map_size = _map_size(SIZE, stride)
    before = _perfect_map(_content(SIZE), stride, offset, map_size)
    seen = 0
    for g in [*_draws(12, stride, offset), ODD, CropFlip.identity(SIZE), CropFlip(0, 0, SIZE[1], SIZE[0], True)]:
        expected = _perfect_map(g.image(_content(SIZE)), stride, offset, map_size)
        warped, valid = g.features(before, SIZE, stride=stride, offset=offset)
        torch.testing.assert_close(warped[:, valid], expected[:, valid])
        assert (expected[0][valid] < 1e5).all()
        seen += int(valid.sum())
    assert seen > 0


@pytest.mark.parametrize(("stride", "offset"), MAPS[:5])
@pytest.mark.parametrize("wrong", ["cell", "reversal"])
def test_the_test_above_sees_one_cell_and_plain_reversal(stride: int, offset: float, wrong: str) -> None:
    map_size = _map_size(SIZE, stride)
    before = _perfect_map(_content(SIZE), stride, offset, map_size)
    g = CropFlip(0, 0, SIZE[1], SIZE[0], flip=True)
    expected = _perfect_map(g.image(_content(SIZE)), stride, offset, map_size)
    right, valid = g.features(before, SIZE, stride=stride, offset=offset)
    other = right.roll(1, dims=2) if wrong == "cell" else before.flip(2)
    inner = valid & valid.roll(1, dims=1)
    assert (other - expected)[0][inner].abs().max() > 1
    assert (right - expected)[0][inner].abs().max() < 1e-9


def _valid_by_loops(
    g: CropFlip, size: tuple[int, int], stride: int, offset: float, map_size: tuple[int, int]
) -> Tensor:
    """Word for word: the supervised pixel is in g(I), and the cells around u are supervised inside I."""
    valid = torch.zeros(map_size, dtype=torch.bool)

    def readable(u: float, side: int) -> bool:
        return all(k >= 0 and stride * k + offset <= side - 1 for k in (math.floor(u), math.ceil(u)))

    for i in range(map_size[0]):
        for j in range(map_size[1]):
            u = (g.x0 + g.w - 1 - 2 * offset) / stride - j if g.flip else j + g.x0 / stride
            inside = stride * i + offset <= g.h - 1 and stride * j + offset <= g.w - 1
            valid[i, j] = inside and readable(u, size[1]) and readable(i + g.y0 / stride, size[0])
    return valid


@pytest.mark.parametrize(("stride", "offset"), MAPS[:5])
def test_valid_equals_loops(stride: int, offset: float) -> None:
    map_size = _map_size(SIZE, stride)
    for g in [*_draws(12, stride, offset), ODD, CropFlip(0, 0, SIZE[1], SIZE[0], True)]:
        _, valid = g.features(torch.zeros(1, *map_size), SIZE, stride=stride, offset=offset)
        assert torch.equal(valid, _valid_by_loops(g, SIZE, stride, offset, map_size))


@pytest.mark.parametrize(("stride", "offset"), MAPS[:4])
def test_sampled_mask_of_g_is_the_warped_sampled_mask(stride: int, offset: float) -> None:
    """Bit for bit where u is whole, which sample() arranges."""
    masks = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0)) > 0.5
    map_size = _map_size(SIZE, stride)
    flips = 0
    for g in _draws(20, stride, offset):
        warped, valid = g.features(
            masks_at_cells(masks, stride, offset, map_size).float(), SIZE, stride=stride, offset=offset
        )
        expected = masks_at_cells(g.masks(masks), stride, offset, map_size).float()
        assert torch.equal(warped[:, valid], expected[:, valid])
        flips += g.flip
    assert 0 < flips < 20


def test_batch_is_one_by_one_and_other_map_sizes_work() -> None:
    features = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    transforms, sizes = [CropFlip(8, 0, 61, 40, True), CropFlip(0, 16, 50, 50)], [SIZE, (96, 128)]
    warped, valid = warp_features(features, transforms, sizes, stride=8, offset=4, map_size=(7, 9))
    assert warped.shape == (2, 3, 7, 9) and valid.shape == (2, 7, 9)
    for b in range(2):
        one, one_valid = transforms[b].features(features[b], sizes[b], stride=8, offset=4, map_size=(7, 9))
        assert torch.equal(warped[b], one) and torch.equal(valid[b], one_valid)


def test_gradient_reaches_the_features() -> None:
    features = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    for g in (CropFlip(8, 8, 33, 30, True), CropFlip(8, 8, 30, 30, True), CropFlip(8, 8, 30, 30)):
        assert torch.autograd.gradcheck(lambda x, g=g: g.features(x, (40, 48), stride=8, offset=4)[0], (features,))


def test_half_precision_maps_are_warped_in_float32() -> None:
    warped, _ = ODD.features(torch.ones(1, 12, 16, dtype=torch.bfloat16), SIZE, stride=8, offset=4)
    assert warped.dtype == torch.float32


@pytest.mark.parametrize("g", [ODD, CropFlip(16, 32, 50, 41)])
def test_boxes_and_points_follow_the_pixels(g: CropFlip) -> None:
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 20:50, 10:30] = True  # partly outside the window
    ys, xs = g.masks(mask)[0].nonzero(as_tuple=True)
    expected = [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
    assert g.boxes(torch.tensor([[10.0, 20, 30, 50]])).tolist() == [expected]
    image = torch.zeros(3, *SIZE)
    image[:, 40, 25] = 1
    ((x, y),) = g.points(torch.tensor([[25.0, 40.0]])).long().tolist()
    assert g.image(image)[0, y, x] == 1
    away = g.boxes(torch.tensor([[0.0, 0, 9, 9]]))[0]
    assert (away[2] - away[0]) * (away[3] - away[1]) == 0


@pytest.mark.parametrize(("stride", "offset"), MAPS)
def test_sample_stays_in_range_and_on_the_grid(stride: int, offset: float) -> None:
    for g in _draws(300, stride, offset):
        assert math.ceil(0.6 * SIZE[1]) <= g.w <= SIZE[1] and math.ceil(0.6 * SIZE[0]) <= g.h <= SIZE[0]
        assert g.x0 % stride == g.y0 % stride == 0
        assert g.x0 + g.w <= SIZE[1] and g.y0 + g.h <= SIZE[0]
        assert not g.flip or (g.x0 + g.w - 1 - 2 * offset) % stride == 0


def test_sample_is_spread_out_and_independent() -> None:
    draws = _draws(2000, 4, 2)
    w, h, x, y, flip = torch.tensor([[g.w, g.h, g.x0, g.y0, g.flip] for g in draws]).float().unbind(1)
    assert flip.mean().item() == pytest.approx(0.5, abs=0.05)
    assert (w / SIZE[1]).mean().item() == pytest.approx(0.8, abs=0.02)
    assert (h / SIZE[0]).mean().item() == pytest.approx(0.8, abs=0.02)
    assert x.unique().numel() == (SIZE[1] - 61) // 4 + 1 and y.unique().numel() == (SIZE[0] - 45) // 4 + 1
    assert torch.corrcoef(torch.stack([w, h, flip]))[0, 1:].abs().max() < 0.08


def test_sample_options() -> None:
    def draw(size: tuple[int, int], **options: object) -> list[CropFlip]:
        generator = torch.Generator().manual_seed(0)
        return [CropFlip.sample(generator, size, stride=8, offset=4, **options) for _ in range(20)]  # type: ignore[arg-type]

    assert set(draw(SIZE, flip_prob=0.0, crop_range=(1.0, 1.0))) == {CropFlip.identity(SIZE)}
    assert set(draw(SIZE, flip_prob=1.0, crop_range=(1.0, 1.0))) == {CropFlip(0, 0, SIZE[1], SIZE[0], True)}
    assert draw(SIZE) == draw(SIZE)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (7, 9)])
@pytest.mark.parametrize(("stride", "offset"), MAPS)
def test_tiny_images_do_not_crash(size: tuple[int, int], stride: int, offset: float) -> None:
    map_size = _map_size(size, stride)
    before = _perfect_map(_content(size), stride, offset, map_size)
    for g in _draws(20, stride, offset, size):
        assert g.w >= 1 and g.h >= 1
        warped, valid = g.features(before, size, stride=stride, offset=offset)
        expected = _perfect_map(g.image(_content(size)), stride, offset, map_size)
        torch.testing.assert_close(warped[:, valid], expected[:, valid])
