"""Turns mask probabilities of the padded network input into masks of the wanted size, in bounded memory."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from adet_iuq.modeling.layers.mask_sets import MaskWindow, stacked_masks
from adet_iuq.modeling.layers.resampling import Resampling, aligned_axis, resized_axis


def aligned_bilinear(maps: Tensor, factor: int) -> Tensor:
    """Linear upsampling after which input cell i sits at output index `factor * i + factor // 2`.

    Along each axis output index k samples the input at clamp((k - factor // 2) / factor, 0, size - 1)
    (docs/parity/condinst.md, "Model").

    Args:
        maps: (N, C, H, W), float.
        factor: the positive upsampling factor; 1 changes nothing.

    Returns:
        (N, C, factor * H, factor * W).
    """
    if factor == 1 or maps.numel() == 0:
        return maps.repeat_interleave(factor, 2).repeat_interleave(factor, 3) if factor > 1 else maps
    height, width = maps.shape[-2:]
    before, after = factor // 2, factor - factor // 2 - 1
    inner = F.interpolate(
        maps, size=(factor * (height - 1) + 1, factor * (width - 1) + 1), mode="bilinear", align_corners=True
    )
    return F.pad(inner, (before, after, before, after), mode="replicate")


def paste_masks(
    probabilities: Tensor,
    stride: int,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float = 0.5,
) -> Tensor:
    """All masks of `pasted_masks` in one tensor, (N, height, width) bool."""
    chunks = pasted_masks(probabilities, stride, input_size, output_size, threshold)
    return stacked_masks(chunks, len(probabilities), output_size, probabilities.device)


def pasted_masks(
    probabilities: Tensor,
    stride: int,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float = 0.5,
) -> Iterator[MaskWindow]:
    """Resizes CondInst's masks to the output image and thresholds them (docs/parity/condinst.md, "Inference").

    Args:
        probabilities: (N, Hp / stride, Wp / stride) float in [0, 1].
        stride: the pixels of the padded network input per cell.
        input_size: (H, W) of the network input before padding.
        output_size: (height, width) of the output image.
        threshold: a pixel belongs to the mask if its probability is above it.

    Returns:
        An iterator of masks (height, width), a few at a time, in the window that holds them.
    """
    height, width = probabilities.shape[1:]
    enlarged = aligned_axis(height, stride), aligned_axis(width, stride)
    return Resampling(enlarged, input_size, output_size).masks(probabilities, threshold)


def paste_grid_masks(
    probabilities: Tensor, input_size: tuple[int, int], output_size: tuple[int, int], threshold: float
) -> Tensor:
    """All masks of `pasted_grid_masks` in one tensor, (N, height, width) bool."""
    chunks = pasted_grid_masks(probabilities, input_size, output_size, threshold)
    return stacked_masks(chunks, len(probabilities), output_size, probabilities.device)


def pasted_grid_masks(
    probabilities: Tensor, input_size: tuple[int, int], output_size: tuple[int, int], threshold: float
) -> Iterator[MaskWindow]:
    """The same for grid segmenters, whose cells cover whole pixels (docs/parity/solov2.md, "Inference").

    As published, the factor of the first enlargement is computed from the image's height instead of being the stride 4.
    If the padded frame is much taller than the image (at least 4 / 3 of its height), the factor is 3 or less, and the
    masks are too small and lie towards the top left corner. This happens to a short image in a batch with a tall one,
    and to single images only if they have up to 24, 33 to 48, or 65 to 72 pixels. If an image must not depend on its
    neighbours, evaluate it alone, as the evaluation does.

    Args:
        probabilities: (N, Hp / 4, Wp / 4) float in [0, 1].
        input_size: (H, W) of the network input before padding.
        output_size: (height, width) of the output image.
        threshold: a pixel belongs to the mask if its probability is above it.

    Returns:
        An iterator of masks (height, width), a few at a time, in the window that holds them.
    """
    height, width = probabilities.shape[1:]
    factor = -(-input_size[0] // height)
    enlarged = resized_axis(height, factor * height), resized_axis(width, factor * width)
    return Resampling(enlarged, input_size, output_size).masks(probabilities, threshold)
