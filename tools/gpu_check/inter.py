"""The inter-scene loss, forward and backward, over chunk sizes; then with its loss and slope compiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from benchmark_inter_loss import CASES, HEAD, Case, chunked_step, random_inputs
from benchmarking import alternate, peak_bytes
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from adet_iuq.iuq import inter_scene

from .models import PIXELS, TINY_PIXELS
from .stage import OK, Row, Settings, megabytes, milliseconds, timed, wait

_CHUNKS_MB = (16, 32, 64, 128, 256, 512)  # today's: 128
_CAPPED, _UNCAPPED = 100, 500
_TOLERANCE = 1e-4  # of the gradients' largest value


def rows(settings: Settings) -> Iterator[Row]:
    """Rows of every chunk size for each kind of query, with and without the cap; then the same compiled."""
    HEAD.to(settings.device)
    for queries in settings.pick((_CAPPED, _UNCAPPED), (10,)):
        for case in CASES:
            yield from over_chunks(settings, case, queries, "eager")
    with compiled_focal_loss(settings):
        for case in CASES:
            yield from over_chunks(settings, case, settings.pick(_CAPPED, 10), "compiled")


def over_chunks(settings: Settings, case: Case, count: int, how: str) -> Iterator[Row]:
    """All chunk sizes in turn. The gradients of all must be the same."""
    queries, ids, pixels = random_inputs(case, count, settings.pick(PIXELS, TINY_PIXELS))
    embeddings = queries.embeddings.detach().to(settings.device).requires_grad_()
    queries = queries.to(settings.device)
    queries.embeddings = embeddings
    inputs = (queries, ids.to(settings.device), pixels.to(settings.device))
    sizes = settings.pick(_CHUNKS_MB, _CHUNKS_MB[:2])
    steps = [partial(chunked_step, case, *inputs, chunk_bytes=size * 2**20) for size in sizes]
    expected = steps[-1]()
    times = alternate([partial(timed, step, settings.device) for step in steps], settings.pick(5, 1))
    for size, step, mine in zip(sizes, steps, times, strict=True):
        difference = float((step() - expected).abs().max() / expected.abs().max())
        yield {
            OK: difference <= _TOLERANCE,
            "query": case.name,
            "queries": count,
            "computed": how,
            "chunk MB": size,
            "ms": milliseconds(mine),
            "ms busy": busy_milliseconds(step, settings.device),
            "peak MB": megabytes(peak_bytes(step, settings.device)),
        }


def busy_milliseconds(step: Callable[[], object], device: str) -> float | None:
    """How long a step's kernels keep the GPU busy; the rest of its time the GPU waits for the host. None on the CPU."""
    if device != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        wait(device)
    kernels = [event for event in profiler.events() or () if event.device_type == DeviceType.CUDA]
    return round(sum(event.time_range.elapsed_us() for event in kernels) / 1000, 3)


@contextmanager
def compiled_focal_loss(settings: Settings) -> Iterator[None]:
    """Compiles the focal loss and its slope. A dry run traces them only, as a C++ compiler may be missing."""
    plain: Callable[..., tuple[torch.Tensor, torch.Tensor]] = inter_scene.INTER_LOSSES["focal"]
    inter_scene.INTER_LOSSES["focal"] = torch.compile(
        plain, dynamic=True, backend=settings.pick("inductor", "aot_eager")
    )
    try:
        yield
    finally:
        inter_scene.INTER_LOSSES["focal"] = plain
