"""Every fast layer against the obvious way to compute the same."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from fvcore.nn import sigmoid_focal_loss
from torch.nn import functional as F

from adet_iuq.modeling.layers import (
    aligned_bilinear,
    conv_at,
    dot_product_maps,
    focal_loss_sum,
    instance_masks,
    mask_boxes,
    mask_centroids,
    paste_masks,
    strided_masks,
)
from helpers.scenes import windowed_maps


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 4)])
def test_aligned_bilinear_samples_where_it_says(factor: int, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    expected = torch.empty(2, 3, size[0] * factor, size[1] * factor)

    def reads(k: int, n: int) -> tuple[int, int, float]:
        at = min(max((k - factor // 2) / factor, 0), n - 1)
        low = int(at)
        return low, min(low + 1, n - 1), at - low

    for i in range(expected.shape[2]):
        for j in range(expected.shape[3]):
            (i0, i1, a), (j0, j1, b) = reads(i, size[0]), reads(j, size[1])
            top = x[:, :, i0, j0] * (1 - b) + x[:, :, i0, j1] * b
            bottom = x[:, :, i1, j0] * (1 - b) + x[:, :, i1, j1] * b
            expected[:, :, i, j] = top * (1 - a) + bottom * a
    torch.testing.assert_close(aligned_bilinear(x, factor), expected, rtol=1e-5, atol=1e-6)


def test_aligned_bilinear_of_nothing() -> None:
    assert aligned_bilinear(torch.zeros(0, 1, 4, 6), 2).shape == (0, 1, 8, 12)


def test_conv_at_equals_the_whole_convolution() -> None:
    conv = torch.nn.Conv2d(6, 5, 3, padding=1)
    maps = torch.rand(2, 6, 4, 7, requires_grad=True)
    image = torch.arange(2).repeat_interleave(28)
    cell = torch.arange(28).repeat(2)
    sparse = conv_at(conv, maps, image, cell)
    dense = conv(maps).flatten(2).transpose(1, 2).reshape(-1, 5)
    torch.testing.assert_close(sparse, dense)
    weight = torch.rand_like(dense)
    inputs = [maps, *conv.parameters()]
    for a, b in zip(
        torch.autograd.grad((sparse * weight).sum(), inputs),
        torch.autograd.grad((dense * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert conv_at(conv, maps, image[:0], cell[:0]).shape == (0, 5)


def test_dot_product_maps_pairs_queries_with_their_own_image() -> None:
    embeddings, maps = torch.randn(5, 4), torch.randn(3, 4, 6, 7)
    image = torch.tensor([2, 0, 2, 0, 2])  # none of image 1
    expected = torch.einsum("qd,qdhw->qhw", embeddings, maps[image])
    torch.testing.assert_close(dot_product_maps(embeddings, image, maps), expected, rtol=1e-5, atol=1e-5)
    assert dot_product_maps(embeddings[:0], image[:0], maps).shape == (0, 6, 7)


def test_focal_loss_sum_equals_dense_one_hot() -> None:
    logits = (torch.randn(3, 4, 5) * 4).requires_grad_()
    positive = torch.tensor([0, 17, 59])
    target = torch.zeros(60)
    target[positive] = 1
    dense = sigmoid_focal_loss(logits.flatten(), target, alpha=0.25, gamma=2.0, reduction="sum")
    ours = focal_loss_sum(logits, positive, 0.25, 2.0)
    torch.testing.assert_close(ours, dense)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, dense)))
    assert focal_loss_sum(logits, positive[:0], 0.25, 2.0).requires_grad


def test_polygons_and_bitmasks_give_the_same_masks() -> None:
    polygons = [[np.array([2.0, 2.0, 12.0, 2.0, 12.0, 9.0, 2.0, 9.0])], [np.array([20.0, 3.0, 30.0, 3.0, 25.0, 14.0])]]
    instances = Instances((16, 32), gt_boxes=Boxes(torch.zeros(2, 4)), gt_masks=PolygonMasks(polygons))
    masks = instance_masks(instances)
    assert masks.shape == (2, 16, 32) and masks.dtype == torch.bool
    assert masks[0].sum() == 70 and masks[0, 2:9, 2:12].all()
    bit = Instances((16, 32), gt_boxes=Boxes(torch.zeros(2, 4)), gt_masks=BitMasks.from_polygon_masks(
        PolygonMasks(polygons), 16, 32))  # fmt: skip
    assert torch.equal(instance_masks(bit), masks)
    none = Instances((16, 32), gt_boxes=Boxes(torch.zeros(0, 4)), gt_masks=PolygonMasks([]))
    assert instance_masks(none).shape == (0, 16, 32)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_strided_masks_reads_the_middle_and_pads(stride: int) -> None:
    masks = torch.rand(3, 21, 30) > 0.5
    padded = F.pad(masks, (0, 2, 0, 11))
    expected = padded[:, stride // 2 :: stride, stride // 2 :: stride].float()
    assert torch.equal(strided_masks(masks, stride, (32 // stride, 32 // stride)), expected)


def test_mask_centroids() -> None:
    masks = torch.zeros(3, 10, 20, dtype=torch.bool)
    masks[0, 2:5, 4:9] = True
    masks[1, 0, 0] = masks[1, 9, 19] = True
    torch.testing.assert_close(mask_centroids(masks), torch.tensor([[6.0, 3.0], [9.5, 4.5], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mask_centroids_of_large_masks_under_autocast(dtype: torch.dtype) -> None:
    masks = torch.zeros(2, 800, 1333, dtype=torch.bool)
    masks[0, 101:700, 640:1301] = masks[1, 790:, 1300:] = True
    with torch.autocast("cpu", dtype=dtype):
        found = mask_centroids(masks)
    torch.testing.assert_close(found, torch.tensor([[970.0, 400.0], [1316.0, 794.5]]))


def test_boxes_enclose_masks() -> None:
    masks = torch.zeros(2, 9, 12, dtype=torch.bool)
    masks[0, 2:5, 3] = masks[0, 4, 3:10] = True
    assert mask_boxes(masks).tolist() == [[3, 2, 10, 5], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize("chunk", [0, 50_000, 10**9], ids=["one by one", "some", "all"])
@pytest.mark.parametrize("output", [(50, 70), (100, 61), (13, 200)])
def test_paste_masks_in_windows_equals_whole_images(
    output: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    probabilities = windowed_maps(16, 24)
    full = aligned_bilinear(probabilities[:, None], 4)[:, :, :50, :70]
    expected = F.interpolate(full, size=output, mode="bilinear", align_corners=False)[:, 0] > 0.5
    monkeypatch.setattr("adet_iuq.modeling.layers.resampling._CHUNK_BYTES", {"cpu": chunk})
    assert torch.equal(paste_masks(probabilities, 4, (50, 70), output), expected)
    assert paste_masks(probabilities[:0], 4, (50, 70), output).shape == (0, *output)
