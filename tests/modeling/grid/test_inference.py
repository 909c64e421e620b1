"""Selection of results and their masks against the published order of steps, written out."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.errors import UserError
from adet_iuq.modeling.grid import GridDetection, mask_probabilities, select_results
from adet_iuq.modeling.grid.suppression import mask_nms, matrix_nms, same_class_ious
from adet_iuq.modeling.layers import mask_boxes, paste_grid_masks
from helpers.scenes import windowed_maps

SETTINGS = GridDetection(
    score_threshold=0.3, mask_threshold=0.5, update_threshold=0.1, nms_pre=60, max_per_image=20,
    nms_type="matrix", nms_kernel="gaussian", nms_sigma=2.0,
)  # fmt: skip


def candidates(seed: int, cells: int = 40, classes: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(cells, classes, generator=generator)
    kernels = torch.randn(cells, 6, generator=generator)
    features = torch.randn(6, 4, 4, generator=generator)
    features = F.interpolate(features[None], (12, 14), mode="bilinear")[0]
    return scores, kernels, features, torch.full((cells,), 30.0)


def step_by_step(
    scores: Tensor, kernels: Tensor, features: Tensor, strides: Tensor, settings: GridDetection
) -> list[tuple[float, int, int]]:
    """(score, class, cell) with a mask for every candidate."""
    cell, label = torch.nonzero(scores > settings.score_threshold, as_tuple=True)
    probability = torch.einsum("nd,dhw->nhw", kernels[cell], features).sigmoid()
    binary = probability > settings.mask_threshold
    area = binary.sum((1, 2)).float()
    score = scores[cell, label] * (probability * binary).sum((1, 2)) / area
    keep = area > strides[cell]
    cell, label, binary, area, score = (x[keep] for x in (cell, label, binary, area, score))
    order = score.argsort(descending=True)[: settings.nms_pre]
    cell, label, binary, area, score = (x[order] for x in (cell, label, binary, area, score))
    ious = same_class_ious(binary.flatten(1), torch.arange(len(binary)), area, label)
    if settings.nms_type == "matrix":
        score = matrix_nms(score, ious, settings.nms_kernel, settings.nms_sigma)
        keep = score >= settings.update_threshold
    else:
        keep = mask_nms(ious, settings.mask_threshold)
    order = torch.nonzero(keep)[:, 0]
    order = order[score[order].argsort(descending=True)][: settings.max_per_image]
    return [(float(score[i]), int(label[i]), int(cell[i])) for i in order]


@pytest.mark.parametrize("nms", ["matrix", "mask"])
@pytest.mark.parametrize("caps", [(60, 20), (1000, 1000), (25, 5)])
def test_selection_equals_step_by_step(nms: str, caps: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adet_iuq.modeling.grid.inference.CHUNK_BYTES", 7 * 4 * 12 * 14)  # seven masks a chunk
    settings = replace(SETTINGS, nms_type=nms, nms_pre=caps[0], max_per_image=caps[1])
    scores, kernels, features, strides = candidates(seed=caps[0])
    found = select_results(scores, kernels, features, strides, settings)
    expected = step_by_step(scores, kernels, features, strides, settings)
    assert len(found.scores) == len(expected) > 3
    assert list(zip(found.classes.tolist(), found.cells.tolist(), strict=True)) == [row[1:] for row in expected]
    torch.testing.assert_close(found.scores, torch.tensor([row[0] for row in expected]))


@pytest.mark.parametrize("chunk", [1, 10])
def test_only_cells_that_can_be_among_the_best_are_decoded(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on LVIS: nearly all of many (cell, class) pairs are candidates, and few of them are kept."""
    decoded: list[int] = []

    def counting(kernels: Tensor, features: Tensor) -> Tensor:
        decoded.append(len(kernels))
        return mask_probabilities(kernels, features)

    monkeypatch.setattr("adet_iuq.modeling.grid.inference.mask_probabilities", counting)
    monkeypatch.setattr("adet_iuq.modeling.grid.inference.CHUNK_BYTES", chunk * 4 * 12 * 14)
    for nms in ("matrix", "mask"):
        settings = replace(
            SETTINGS, nms_type=nms, score_threshold=1e-4, update_threshold=1e-9, nms_pre=50, max_per_image=50
        )
        scores, kernels, features, strides = candidates(seed=9, cells=400, classes=40)
        kernels = 5 * kernels  # sure of their masks: nearly every cell that is decoded counts
        scores = scores**20 * torch.rand(400, 1, generator=torch.Generator().manual_seed(1))
        assert (scores > settings.score_threshold).sum() > 5000
        decoded.clear()
        found = select_results(scores, kernels, features, strides, settings)
        assert max(decoded) == chunk and sum(decoded) < 300, decoded
        expected = step_by_step(scores, kernels, features, strides, settings)
        assert list(zip(found.classes.tolist(), found.cells.tolist(), strict=True)) == [row[1:] for row in expected]
        torch.testing.assert_close(found.scores, torch.tensor([row[0] for row in expected]))


@pytest.mark.parametrize("most", [10, 14])  # enough candidates are found before and in the last chunk
def test_equal_scores_stand_in_the_order_of_cells_and_classes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where cells are decoded in another order: identical masks and scores in chunks of two."""
    monkeypatch.setattr("adet_iuq.modeling.grid.inference.CHUNK_BYTES", 2 * 4 * 12 * 14)
    _, _, features, _ = candidates(seed=1)
    scores = torch.full((6, 3), 0.4)
    scores[[5, 3], 2] = 0.8
    settings = replace(SETTINGS, nms_pre=most, nms_sigma=0.0, update_threshold=0.0)  # nothing decays
    found = select_results(scores, torch.ones(6, 6), features, torch.zeros(6), settings)
    pairs = [(3, 2), (5, 2)] + [(cell, label) for cell in range(6) for label in range(3) if scores[cell, label] == 0.4]
    assert list(zip(found.cells.tolist(), found.classes.tolist(), strict=True)) == pairs[:most]


def test_a_mask_needs_more_cells_than_its_stride() -> None:
    scores, kernels, features, _ = candidates(seed=1, cells=1)
    area = (mask_probabilities(kernels, features.flatten(1)) > SETTINGS.mask_threshold).sum(1).float()
    assert 1 < area < features[0].numel()
    settings = replace(SETTINGS, score_threshold=0.0)
    found = [select_results(scores, kernels, features, stride, settings) for stride in (area - 1, area)]
    assert [len(one.scores) for one in found] == [scores.shape[1], 0]


def test_a_cell_keeps_its_mask_for_each_of_its_classes() -> None:
    scores, kernels, features, strides = candidates(seed=1)
    found = select_results(torch.ones_like(scores), kernels, features, strides * 0, replace(SETTINGS, nms_pre=1000))
    best = found.cells[0]
    assert (found.cells == best).sum() == 3 and len(set(found.classes[found.cells == best].tolist())) == 3


def test_no_candidate() -> None:
    scores, kernels, features, strides = candidates(seed=1)
    for settings, strides_ in (
        (replace(SETTINGS, score_threshold=1.0), strides),
        (SETTINGS, strides * 1000),
        (replace(SETTINGS, nms_type="mask"), strides * 1000),
    ):
        found = select_results(scores, kernels, features, strides_, settings)
        assert len(found.scores) == len(found.classes) == len(found.cells) == 0


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UserError, match="NMS_TYPE"):
        replace(SETTINGS, nms_type="soft")
    with pytest.raises(UserError, match="NMS_KERNEL"):
        replace(SETTINGS, nms_kernel="box")
    with pytest.raises(UserError, match="NMS_PRE is 0"):
        replace(SETTINGS, nms_pre=0)


@pytest.mark.parametrize("chunk", [0, 50_000, 10**9], ids=["one by one", "some", "all"])
@pytest.mark.parametrize("output", [(50, 70), (100, 61), (13, 200)])
@pytest.mark.parametrize("frame", [(64, 96), (96, 96), (160, 96)])
def test_paste_in_windows_equals_whole_images(
    frame: tuple[int, int], output: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    probabilities = windowed_maps(frame[0] // 4, frame[1] // 4)
    factor = {64: 4, 96: 3, 160: 2}[frame[0]]  # from the height alone, as published
    full = F.interpolate(probabilities[None], scale_factor=factor, mode="bilinear")[:, :, :50, :70]
    expected = F.interpolate(full, size=output, mode="bilinear")[0] > 0.4
    monkeypatch.setattr("adet_iuq.modeling.layers.resampling._CHUNK_BYTES", {"cpu": chunk})
    assert torch.equal(paste_grid_masks(probabilities, (50, 70), output, 0.4), expected)
    assert paste_grid_masks(probabilities[:0], (50, 70), output, 0.4).shape == (0, *output)


def test_boxes_enclose_masks_tightly() -> None:
    masks = torch.rand(9, 12, 17) < 0.02
    masks[0] = False
    masks[1] = True
    for mask, box in zip(masks, mask_boxes(masks).tolist(), strict=True):
        y, x = torch.nonzero(mask, as_tuple=True)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0]
        assert box == [float(value) for value in expected]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_mask_probabilities() -> None:
    kernels, features = torch.randn(3, 5), torch.randn(5, 8)
    torch.testing.assert_close(mask_probabilities(kernels, features), (kernels @ features).sigmoid())
