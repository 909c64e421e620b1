"""What the benchmarks share: peak memory, alternation, and synthetic images with annotations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read at import: keeps the profiler from chatting

import torch
from detectron2.structures import BitMasks, Instances
from torch.profiler import ProfilerActivity, profile


def peak_bytes(step: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The largest sum of torch's allocations while `step` runs, minus that before it."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    current = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    return peak


def alternate(steps: Sequence[Callable[[], Any]], rounds: int) -> list[list[Any]]:
    """Runs all steps in turn, once to warm up and then `rounds` times; returns each step's results of every round.

    So whatever slows the machine down for a while affects all of them.
    """
    results: list[list[Any]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for step, result in zip(steps, results, strict=True):
            value = step()
            if number:
                result.append(value)
    return results


def synthetic_input(size: tuple[int, int], instances: int, classes: int, seed: int) -> dict[str, Any]:
    """A training sample as the loader yields it: noise with ellipses of all scales, and their annotations.

    Args:
        size: the height and width.
        instances: the number of ellipses, which may overlap and reach over the border.
        classes: the number of classes; labels are below it.
        seed: the seed of everything that is drawn; also the image's id.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    draws = torch.rand(instances, 4, generator=generator)
    centers = draws[:, :2] * torch.tensor([height, width])
    # Radii from 8 pixels to nearly half the image's side, each octave as often as any other.
    radii = 8 * (torch.tensor([height, width]) * 0.45 / 8).clamp(min=1) ** draws[:, 2:]
    y, x = torch.arange(height)[:, None], torch.arange(width)
    parts = [
        ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        for (cy, cx), (ry, rx) in zip(centers.tolist(), radii.tolist(), strict=True)
    ]
    masks = torch.stack(parts) if parts else torch.zeros(0, height, width, dtype=torch.bool)
    annotations = Instances(size)
    annotations.gt_masks = BitMasks(masks)
    annotations.gt_boxes = annotations.gt_masks.get_bounding_boxes()
    annotations.gt_classes = torch.randint(0, classes, (instances,), generator=generator)
    keys = {"image_id": seed, "sample_index": seed, "sample_seed": seed}
    return {"image": image, "instances": annotations, "height": height, "width": width, **keys}
