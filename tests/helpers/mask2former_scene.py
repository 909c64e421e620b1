"""Random predictions of Mask2Former and targets of a small frame, for the tests of its matching, losses and inference."""

import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.mask2former.matcher import Targets
from adet_iuq.modeling.mask2former.transformer_decoder import Prediction

FRAME = (32, 48)


def random_scene() -> tuple[list[Prediction], Tensor, list[Targets]]:
    """Three predictions of 6 queries on maps (3, 5, 8, 12), and targets: three, none, and two."""
    torch.manual_seed(0)
    predictions = [
        Prediction(torch.randn(3, 6, 4, requires_grad=True), torch.randn(3, 6, 5, requires_grad=True)) for _ in range(3)
    ]
    mask_features = torch.randn(3, 5, 8, 12, requires_grad=True)
    targets = [
        Targets(torch.tensor([0, 2, 2]), torch.rand(3, 30, 40) > 0.6),
        Targets(torch.zeros(0, dtype=torch.long), torch.zeros(0, 32, 48, dtype=torch.bool)),
        Targets(torch.tensor([1, 0]), torch.rand(2, 32, 48) > 0.6),
    ]
    return predictions, mask_features, targets


def pad(masks: Tensor) -> Tensor:
    """Masks (N, H, W) with the frame's size, as floats."""
    return F.pad(masks.float(), (0, FRAME[1] - masks.shape[2], 0, FRAME[0] - masks.shape[1]))
