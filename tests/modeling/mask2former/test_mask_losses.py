"""The losses of masks at points against their formulas, all points counting and only some."""

import torch

from adet_iuq.modeling.mask2former import mask_losses


def test_mask_losses_are_their_formulas_and_leave_points_out() -> None:
    logits, targets = torch.randn(3, 20, dtype=torch.float64) * 3, torch.rand(3, 20, dtype=torch.float64)
    p = logits.sigmoid()
    cross = -(targets * p.log() + (1 - targets) * (1 - p).log())
    focal = -(0.3 * targets * (1 - p) ** 1.5 * p.log() + 0.7 * (1 - targets) * p**1.5 * (1 - p).log())
    torch.testing.assert_close(mask_losses.cross_entropy(logits, targets), cross.mean(1))
    torch.testing.assert_close(mask_losses.focal(logits, targets, 0.3, 1.5), focal.mean(1))
    dice = 1 - (2 * (p * targets).sum(1) + 1) / (p.sum(1) + targets.sum(1) + 1)
    torch.testing.assert_close(mask_losses.dice(logits, targets), dice)
    valid = torch.zeros(3, 20, dtype=torch.bool)
    valid[0, :7] = valid[1] = True
    for loss in (mask_losses.cross_entropy, mask_losses.dice):
        found = loss(logits, targets, valid)
        torch.testing.assert_close(found[0], loss(logits[:1, :7], targets[:1, :7])[0])
        torch.testing.assert_close(found[1], loss(logits[1:2], targets[1:2])[0])
        assert found[2] == 0


def test_equi_focal_is_the_named_loss() -> None:
    x, t = torch.randn(2, 9), torch.rand(2, 9)
    p = x.sigmoid()
    expected = 0.25 * t * (1 - p) ** 2 * -p.log() + 0.75 * (1 - t) * p**2 * -(1 - p).log()
    torch.testing.assert_close(mask_losses.focal(x, t, 0.25, 2.0), expected.mean(1))
