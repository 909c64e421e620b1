"""From mask probabilities of the padded network input to masks of the wished size, in bounded memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers.upsample import aligned_bilinear

CHUNK_BYTES = 32 * 1024**2  # of the full-resolution maps that exist at one time


def paste_masks(
    probabilities: Tensor,
    stride: int,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float = 0.5,
) -> Tensor:
    """Resizes masks to the output image and thresholds them (parity spec of CondInst, section 7, step 8).

    Args:
        probabilities: (N, Hp / stride, Wp / stride) float in [0, 1].
        stride: pixels of the padded network input per cell.
        input_size: (H, W) of the network input before padding.
        output_size: (height, width) wished.
        threshold: a pixel is in when its probability is above it.

    Returns:
        (N, height, width) bool.
    """
    masks = torch.empty((len(probabilities), *output_size), dtype=torch.bool, device=probabilities.device)
    pixels = max(probabilities[0].numel() * stride**2 if len(probabilities) else 1, output_size[0] * output_size[1])
    step = max(1, CHUNK_BYTES // (4 * pixels))
    for start in range(0, len(probabilities), step):
        full = aligned_bilinear(probabilities[start : start + step, None], stride)
        full = full[:, :, : input_size[0], : input_size[1]]
        if output_size != input_size:
            full = F.interpolate(full, size=output_size, mode="bilinear", align_corners=False)
        torch.gt(full[:, 0], threshold, out=masks[start : start + step])
    return masks
