"""Deformable attention against the straightforward per-level grid_sample loop: same numbers, no more time or memory."""

import importlib
import os
import time
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from adet_iuq.modeling.layers import MSDeformAttn, deformable_attention, sine_positions
from helpers.deformable_twin import grid_sample_attention, random_inputs

SIZES = [(2, 3), (4, 6), (7, 12)]
# Tokens of one image of 800 x 1333, padded to 800 x 1344.
LARGE = [(25, 42), (50, 84), (100, 168)]


def run(function: Callable[..., Tensor], inputs: list[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Output and gradients of a weighted sum of it."""
    value, locations, weights = inputs
    output = function(value, sizes, locations, weights)
    generator = torch.Generator().manual_seed(1)
    pull = torch.randn(output.shape, generator=generator).to(output.dtype)
    return [output.detach(), *torch.autograd.grad((output * pull).sum(), inputs)]


def test_equals_the_grid_sample_loop() -> None:
    inputs = random_inputs(SIZES, images=2, heads=4, channels=8, dtype=torch.float64)
    assert ((inputs[1] < 0) | (inputs[1] > 1)).any()
    ours, twin = (run(function, inputs, SIZES) for function in (deformable_attention, grid_sample_attention))
    for a, b in zip(ours, twin, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_heads_taken_one_by_one_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_inputs(SIZES, images=2, heads=4, channels=8)
    expected = run(deformable_attention, inputs, SIZES)
    module = importlib.import_module("adet_iuq.modeling.layers.deformable_attention")
    monkeypatch.setattr(module, "_STEP_BYTES", {"cpu": 1})
    monkeypatch.setattr(module, "_COPY_BYTES", {"cpu": 20_000})
    for a, b in zip(run(deformable_attention, inputs, SIZES), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_the_numerical_ones() -> None:
    inputs = random_inputs([(2, 3), (3, 2)], images=1, heads=2, channels=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *x: deformable_attention(x[0], [(2, 3), (3, 2)], x[1], x[2]), inputs)


def test_a_location_at_a_cell_centre_reads_that_cell() -> None:
    value = torch.arange(6.0).view(1, 6, 1, 1)
    locations = torch.tensor([(1.5 / 3, 1.5 / 2), (-2.0, 0.5)]).view(1, 2, 1, 1, 1, 2)
    read = deformable_attention(value, [(2, 3)], locations, torch.ones(1, 2, 1, 1, 1))
    torch.testing.assert_close(read.flatten(), torch.tensor([4.0, 0.0]))


def test_operator_is_sound_and_compiles_to_one_step() -> None:
    value, locations, weights = random_inputs(SIZES, images=2, heads=2, channels=4)
    flat = [side for size in SIZES for side in size]
    torch.library.opcheck(torch.ops.adet_iuq.deformable_attention.default, (value, flat, locations, weights))
    compiled = torch.compile(deformable_attention, fullgraph=True, backend="aot_eager")
    eager, traced = (run(one, [value, locations, weights], SIZES) for one in (deformable_attention, compiled))
    for a, b in zip(traced, eager, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = MSDeformAttn(32, len(SIZES), heads=4, points=4)
    tokens = torch.randn(2, sum(h * w for h, w in SIZES), 32)
    reference = torch.rand(1, tokens.shape[1], 1, 2)
    expected = layer(tokens, reference, tokens, SIZES)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(layer(tokens, reference, tokens, SIZES), expected)


def test_padded_cells_say_nothing() -> None:
    torch.manual_seed(0)
    layer = MSDeformAttn(32, len(SIZES), heads=4, points=4)
    torch.nn.init.ones_(layer.value_proj.bias)
    tokens = torch.randn(2, sum(h * w for h, w in SIZES), 32)
    reference, padding = torch.rand(1, tokens.shape[1], 1, 2), torch.rand(tokens.shape[:2]) < 0.5
    expected = layer(tokens, reference, tokens, SIZES, padding)
    noise = torch.where(padding[..., None], 100.0, tokens)
    assert torch.equal(layer(tokens, reference, noise, SIZES, padding), expected)
    everywhere = layer(tokens, reference, tokens, SIZES, torch.ones_like(padding))
    torch.testing.assert_close(everywhere, layer.output_proj.bias.expand_as(everywhere))
    assert not torch.allclose(layer(tokens, reference, tokens, SIZES), expected)


def test_points_of_a_box_reach_its_edges() -> None:
    """In a box the offsets 1 to P cells become shares of half its size: on a map of one box, P cells are the edge."""
    torch.manual_seed(0)
    layer, size = MSDeformAttn(8, levels=1, heads=2, points=4), (8, 8)
    tokens, query = torch.randn(1, 64, 8), torch.randn(1, 1, 8)
    point = layer(query, torch.tensor([[[[0.5, 0.25]]]]), tokens, [size])
    box = layer(query, torch.tensor([[[[0.5, 0.25, 1.0, 1.0]]]]), tokens, [size])  # a point's 4 cells of 8: half of it
    torch.testing.assert_close(box, point)
    flat = layer(query, torch.tensor([[[[0.5, 0.25, 1e-9, 1e-9]]]]), tokens, [size])
    assert not torch.allclose(flat, point)


def test_initial_points_lie_in_rings_of_all_directions() -> None:
    offsets = MSDeformAttn(32, levels=3, heads=8, points=4).sampling_offsets.bias.view(8, 3, 4, 2)
    torch.testing.assert_close(offsets[0, :, 1], torch.tensor([[2.0, 0.0]]).expand(3, -1))
    torch.testing.assert_close(offsets[1, 0, 2], torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(offsets[2, 2, 3], torch.tensor([0.0, 4.0]), atol=1e-5, rtol=0)


def cpu_seconds(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def peak_bytes(step: Callable[[], object]) -> int:
    """The most that torch held at one time during the step, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.slow
def test_no_more_time_or_memory_than_the_grid_sample_loop() -> None:
    """Forward and backward at the token counts of 800 x 1333; measured in CPU time, since others use the machine too."""
    inputs = random_inputs(LARGE, images=1, heads=8, channels=32)
    functions = (deformable_attention, grid_sample_attention)
    ours, twin = (run(function, inputs, LARGE) for function in functions)
    for a, b in zip(ours[:2], twin[:2], strict=True):  # the others jump where rounding decides between two cells
        assert (a - b).abs().max() < 2e-5 * b.abs().max()
    seconds = [min(cpu_seconds(lambda f=f: run(f, inputs, LARGE)) for _ in range(2)) for f in functions]  # type: ignore[misc]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    peaks = [peak_bytes(lambda f=f: run(f, inputs, LARGE)) for f in functions]  # type: ignore[misc]
    print(f"seconds {seconds}, peak bytes {peaks}")
    assert seconds[0] <= 1.05 * seconds[1]
    assert peaks[0] <= peaks[1]


@pytest.mark.slow
def test_no_more_memory_with_the_pieces_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("adet_iuq.modeling.layers.deformable_attention")
    for name in ("_STEP_BYTES", "_COPY_BYTES"):  # without the CPU's pieces, those of any other device apply
        monkeypatch.setattr(module, name, {})
    inputs = random_inputs(LARGE, images=1, heads=8, channels=32)
    ours, twin = (
        peak_bytes(lambda f=f: run(f, inputs, LARGE))  # type: ignore[misc]
        for f in (deformable_attention, grid_sample_attention)
    )
    assert ours <= 0.8 * twin


@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
def test_sine_positions_are_the_written_out_formula(size: tuple[int, int]) -> None:
    channels = 16
    encoded = sine_positions(size, channels, torch.zeros(1)).view(*size, channels)
    for i in range(size[0]):
        for j in range(size[1]):
            for axis, (index, length) in enumerate(((i, size[0]), (j, size[1]))):
                angle = (index + 1) / (length + 1e-6) * 2 * torch.pi
                for k in range(channels // 2):
                    reduced = torch.tensor(angle / 10000 ** (2 * (k // 2) / (channels // 2)))
                    expected = reduced.sin() if k % 2 == 0 else reduced.cos()
                    torch.testing.assert_close(encoded[i, j, axis * channels // 2 + k], expected, rtol=1e-5, atol=1e-5)
