"""Time and peak memory of the inter-scene loss, chunked and by plain autograd, at growing memory capacity.

    python tools/benchmark_inter_loss.py --queries 100 --capacities 1000 10000 100000 1000000

Memory is what a forward and backward pass needs beyond its inputs, summed over torch's own allocations. The plain
version is left out where its estimate exceeds --max-plain-gb.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from benchmarking import peak_bytes
from torch import Tensor

from adet_iuq.iuq import NORMALIZERS, Pixels, Queries, build_inter_loss, chunked_inter_loss
from adet_iuq.iuq.retrieval import DEFAULT_CHUNK_BYTES

HIDDEN = 8


def dot_product_retrieve(queries: Queries, pixels: Pixels) -> Tensor:
    """SOLOv2, SOTR, Mask2Former: q_n . f(p); (Q, P) logits."""
    return queries.embeddings @ pixels.features.t()


def dynamic_filter_retrieve(queries: Queries, pixels: Pixels) -> Tensor:
    """CondInst's three dynamic layers on [(loc_n - loc_p) / S_n, f(p)], first layer as one product (spec section 11).

    `queries.embeddings` (Q, 169) as published: W0, W1, W2, b0, b1, b2; context `location` (Q, 2) and `scale` (Q,).
    """
    count = len(queries)
    sizes = [(2 + HIDDEN) * HIDDEN, HIDDEN * HIDDEN, HIDDEN, HIDDEN, HIDDEN, 1]
    w0, w1, w2, b0, b1, b2 = torch.split(queries.embeddings, sizes, dim=1)
    w0 = w0.view(count, HIDDEN, 2 + HIDDEN)
    position = w0[:, :, :2] / queries.context["scale"][:, None, None]
    bias = b0 + (position @ queries.context["location"][:, :, None]).squeeze(2)
    matrix = torch.cat([w0[:, :, 2:], -position], dim=2).flatten(0, 1)
    phi = torch.cat([pixels.features, pixels.locations], dim=1)
    hidden = torch.addmm(bias.view(-1, 1), matrix, phi.t()).view(count, HIDDEN, -1).relu()
    hidden = torch.baddbmm(b1[:, :, None], w1.view(count, HIDDEN, HIDDEN), hidden).relu()
    return torch.baddbmm(b2[:, :, None], w2.view(count, 1, HIDDEN), hidden).squeeze(1)


@dataclass(frozen=True)
class Case:
    """A kind of query."""

    name: str
    retrieve: Callable[[Queries, Pixels], Tensor]
    pixel_dim: int
    query_dim: int
    bytes_per_pair: int  # that retrieve keeps for its backward pass


CASES = (
    Case("dynamic filter", dynamic_filter_retrieve, HIDDEN, 169, 4 * 4 * HIDDEN),
    Case("dot product", dot_product_retrieve, 256, 256, 0),
)


def random_inputs(case: Case, queries: int, capacity: int, seed: int = 0) -> tuple[Queries, Tensor, Pixels]:
    """Queries, their image ids, and a full memory of 1000 images, ids 0 to 999; queries are of images 0 to 15."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(16, (queries,), generator=generator)
    embeddings = 0.1 * torch.randn(queries, case.query_dim, generator=generator)
    context = {
        "location": 800 * torch.rand(queries, 2, generator=generator),
        "scale": torch.tensor([64.0, 128.0, 256.0]).repeat(queries)[:queries],
    }
    pixels = Pixels(
        torch.randn(capacity, case.pixel_dim, generator=generator),
        800 * torch.rand(capacity, 2, generator=generator),
        torch.randint(1000, (capacity,), generator=generator),
    )
    return Queries(embeddings.requires_grad_(), ids, torch.zeros_like(ids), context), ids, pixels


def chunked_step(case: Case, queries: Queries, ids: Tensor, pixels: Pixels, chunk_bytes: int) -> Tensor:
    """The library's loss, and its gradient with respect to the embeddings, (Q, d)."""
    result = chunked_inter_loss(
        queries,
        ids,
        pixels,
        case.retrieve,
        build_inter_loss("focal"),
        chunk_bytes=chunk_bytes,
        bytes_per_pair=case.bytes_per_pair,
    )
    return torch.autograd.grad(result.value, queries.embeddings)[0]


def plain_step(case: Case, queries: Queries, ids: Tensor, pixels: Pixels) -> Tensor:
    """The same by ordinary autograd over all pairs at once."""
    foreign = (ids[:, None] != pixels.image_ids[None]) & (pixels.image_ids >= 0)[None]
    per_pair = build_inter_loss("focal")(case.retrieve(queries, pixels)).masked_fill(~foreign, 0.0)
    value = per_pair.sum(dim=1) @ NORMALIZERS["pixel"](ids, pixels.image_ids)
    return torch.autograd.grad(value, queries.embeddings)[0]


def seconds(step: Callable[[], object], repeats: int) -> float:
    """Median duration of `step` over `repeats` runs, after one that warms up."""
    step()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--capacities", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--chunk-mb", type=float, nargs="+", default=[DEFAULT_CHUNK_BYTES / 2**20])
    parser.add_argument("--max-plain-gb", type=float, default=4.0, help="skip the plain version above this estimate")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Prints one line for each kind of query, capacity and way of computing."""
    args = parse_args()
    line = "{:>14}  {:>9}  {:>14}  {:>10}  {:>10}"
    print(f"{args.queries} queries, {torch.get_num_threads()} threads, focal loss, forward and backward")
    print(line.format("query", "pixels", "computed", "seconds", "peak MB"))
    for case in CASES:
        for capacity in args.capacities:
            inputs = random_inputs(case, args.queries, capacity)
            steps: dict[str, Callable[[], object]] = {
                f"chunks {size:g} MB": partial(chunked_step, case, *inputs, chunk_bytes=int(size * 2**20))
                for size in args.chunk_mb
            }
            estimate = args.queries * capacity * (case.bytes_per_pair + 32) / 1e9
            if estimate <= args.max_plain_gb:
                steps["plain"] = partial(plain_step, case, *inputs)
            for name, step in steps.items():
                numbers = f"{seconds(step, args.repeats):.3f}", f"{peak_bytes(step) / 2**20:.1f}"
                print(line.format(case.name, capacity, name, *numbers), flush=True)
            if estimate > args.max_plain_gb:
                print(line.format(case.name, capacity, "plain", "-", f"~{estimate * 1e9 / 2**20:.0f}"), flush=True)


if __name__ == "__main__":
    main()
