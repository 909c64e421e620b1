"""Time and peak memory of the inter-scene loss, chunked and by plain autograd, at growing memory capacity.

    python tools/benchmark_inter_loss.py --queries 100 --capacities 10000 100000 400000 1000000

Plain is a straightforward version: all pairs at once, with CondInst's dynamic filters as the published grouped
convolutions. Both are measured in turn; `ratio` is the median of plain over chunked. Memory is the sum of torch's
allocations in a forward and a backward pass beyond the inputs. Plain is left out if it would need more than
--max-plain-gb.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import torch
import torch.nn.functional as F
from benchmarking import alternate, peak_bytes
from torch import Tensor

from adet_iuq.iuq import InterSceneLoss, Pixels, Queries
from adet_iuq.iuq.image_counts import count_images
from adet_iuq.modeling.condinst.mask_head import DynamicMaskHead, DynamicQueries

HIDDEN = 8


def dot_product_retrieve(queries: Queries, pixels: Pixels) -> Tensor:
    """SOLOv2, SOTR, Mask2Former: q_n . f(p); (Q, P) logits."""
    return queries.embeddings @ pixels.features.t()


HEAD = DynamicMaskHead(
    feature_channels=HIDDEN,
    feature_stride=8,
    channels=HIDDEN,
    num_layers=3,
    relative_coordinates=True,
    sizes_of_interest=[64, 128, 256, 512],
    out_stride=4,
)


def dynamic_filter_retrieve(queries: Queries, pixels: Pixels) -> Tensor:
    """CondInst: its dynamic mask head, `queries.embeddings` (Q, 169), context `location` (Q, 2) and `scale` (Q,)."""
    dynamic = DynamicQueries(queries.embeddings, queries.context["location"], queries.context["scale"])
    return HEAD.retrieve(dynamic, pixels.features, pixels.locations)


def grouped_convolution_retrieve(queries: Queries, pixels: Pixels) -> Tensor:
    """CondInst as published: the inputs of every pair are written out, then convolutions have a group for each query."""
    count = len(queries)
    relative = (queries.context["location"][:, :, None] - pixels.locations.T) / queries.context["scale"][:, None, None]
    out = torch.cat([relative, pixels.features.T.expand(count, -1, -1)], dim=1).flatten(0, 1)[None]
    parts = queries.embeddings.split([(2 + HIDDEN) * HIDDEN, HIDDEN * HIDDEN, HIDDEN, HIDDEN, HIDDEN, 1], dim=1)
    for layer, (weight, bias) in enumerate(zip(parts[:3], parts[3:], strict=True)):
        out = out.relu() if layer else out
        out = F.conv1d(out, weight.reshape(count * bias.shape[1], -1, 1), bias.flatten(), groups=count)
    return out[0]


@dataclass(frozen=True)
class Case:
    """One kind of query."""

    name: str
    retrieve: Callable[[Queries, Pixels], Tensor]
    plain_retrieve: Callable[[Queries, Pixels], Tensor]
    pixel_dim: int
    query_dim: int
    bytes_per_pair: int  # bytes that retrieve takes, backward pass included, as CondInstIUQ declares it
    plain_bytes_per_pair: int  # measured bytes of a whole plain step


CASES = (
    Case(
        "dynamic filter", dynamic_filter_retrieve, grouped_convolution_retrieve, HIDDEN, 169, 4 * (4 * HIDDEN + 1), 205
    ),
    Case("dot product", dot_product_retrieve, dot_product_retrieve, 256, 256, 0, 29),
)


def random_inputs(case: Case, queries: int, capacity: int, seed: int = 0) -> tuple[Queries, Tensor, Pixels]:
    """Queries of images 0 to 15, their image ids, and a full memory of 1000 images with ids 0 to 999."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(16, (queries,), generator=generator)
    embeddings = 0.3 * torch.randn(queries, case.query_dim, generator=generator)
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
    loss = InterSceneLoss(chunk_bytes=chunk_bytes)
    result = loss(
        queries,
        ids,
        pixels,
        case.retrieve,
        query_weights=loss.weigh_queries(*count_images(pixels.image_ids).foreign(ids)),
        bytes_per_pair=case.bytes_per_pair,
    )
    return torch.autograd.grad(result.value, queries.embeddings)[0]


def plain_step(case: Case, queries: Queries, ids: Tensor, pixels: Pixels) -> Tensor:
    """The same results by ordinary autograd over all pairs at once."""
    foreign = (ids[:, None] != pixels.image_ids[None]) & (pixels.image_ids >= 0)[None]
    logits = case.plain_retrieve(queries, pixels)
    cross_entropy = F.softplus(logits)
    per_pair = 0.1 * (torch.exp(2.5 * (logits - cross_entropy)) * cross_entropy)
    value = per_pair.masked_fill(~foreign, 0.0).sum() / foreign.sum()
    return torch.autograd.grad(value, queries.embeddings)[0]


def timed(step: Callable[[], object]) -> float:
    """The seconds that one run takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def parse_args() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--capacities", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--chunk-mb", type=float, nargs="+", default=[0], help="0: the default")
    parser.add_argument("--max-plain-gb", type=float, default=8.0, help="skip the plain version above this estimate")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Prints one line for each kind of query, capacity and way of computing."""
    args = parse_args()
    line = "{:>14}  {:>9}  {:>14}  {:>10}  {:>10}  {:>6}"
    print(f"{args.queries} queries, {torch.get_num_threads()} threads, focal loss, forward and backward")
    print(line.format("query", "pixels", "computed", "seconds", "peak MB", "ratio"))
    for case, capacity in product(CASES, args.capacities):
        inputs = random_inputs(case, args.queries, capacity)
        steps: dict[str, Callable[[], object]] = {
            f"chunks {size:g} MB" if size else "chunks": partial(
                chunked_step, case, *inputs, chunk_bytes=int(size * 2**20)
            )
            for size in args.chunk_mb
        }
        estimate = args.queries * capacity * case.plain_bytes_per_pair
        if estimate <= args.max_plain_gb * 1e9:
            steps["plain"] = partial(plain_step, case, *inputs)
        durations = alternate([partial(timed, step) for step in steps.values()], args.repeats)
        for (name, step), taken in zip(steps.items(), durations, strict=True):
            ratio = median(a / b for a, b in zip(taken, durations[0], strict=True))
            numbers = f"{median(taken):.3f}", f"{peak_bytes(step) / 2**20:.1f}", f"{ratio:.2f}"
            print(line.format(case.name, capacity, name, *numbers), flush=True)
        if "plain" not in steps:
            print(line.format(case.name, capacity, "plain", "-", f"~{estimate / 2**20:.0f}", "-"), flush=True)


if __name__ == "__main__":
    main()
