r"""Seconds of a training step and of synchronising the memory, for several numbers of processes and capacities.

    python tools/benchmark_scaling.py --config-file configs/CondInst/R18_overfit_iuq.yaml --processes 1 2 4 \
        --capacities 0 10000 100000 1000000 --size 128x128 --plot output/scaling.png [KEY VALUE ...]

Weak scaling: every process has a batch of its own, so equal step times are perfect scaling; if there are more processes
than cores, they share these. The memory is full, the inter-scene loss has its full weight, weights and images are
random. `sync` is one `enqueue` of a step's pixels by itself, measured from a barrier on: sizes, rows, sorting, writing.
The slowest process counts for both. `memory MB` is what a process stores. MODEL.IUQ.MEMORY.SHARD True splits it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import torch
import torch.distributed as dist
from benchmark_segmenter import size
from benchmarking import synthetic_input
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.config import import_projects, load_config
from adet_iuq.config.num_classes import all_num_classes
from adet_iuq.engine import Trainer
from adet_iuq.engine.launching.launch import argument_parser, launch
from adet_iuq.engine.meta_arch import find_segmenter
from adet_iuq.engine.setup import choose_device
from adet_iuq.errors import UserError
from adet_iuq.iuq import PixelMemory, Pixels
from adet_iuq.modeling.iuq_meta_arch import IUQMetaArch

COLUMNS = ("processes", "capacity", "step s", "sync ms", "memory MB")


def build(cfg: Any, capacity: int) -> tuple[nn.Module, PixelMemory]:
    """The segmenter of a config, wrapped for several processes, and its full memory of that capacity.

    Raises:
        UserError: the segmenter has no memory.
    """
    cfg = cfg.clone()
    cfg.MODEL.IUQ.MEMORY.CAPACITY = capacity
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    if not isinstance(model, IUQMetaArch) or model.iuq_criterion.memory is None:
        raise UserError(
            f"{cfg.MODEL.META_ARCHITECTURE} has no memory; name an _iuq config with MODEL.IUQ.INTER.ENABLED."
        )
    inter = model.iuq_criterion.inter
    model.set_iteration(inter.start_iter + inter.ramp_iters + 1)
    fill(model.iuq_criterion.memory, capacity, cfg.MODEL.DEVICE)
    device_ids = [comm.get_local_rank()] if cfg.MODEL.DEVICE.startswith("cuda") else None
    wrapped: nn.Module = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
    return wrapped.train(), model.iuq_criterion.memory


def fill(memory: PixelMemory, capacity: int, device: str) -> None:
    """Fills the memory with random pixels of foreign images; every process provides its share."""
    share = -(-capacity // comm.get_world_size())
    for start in range(0, share, 100_000):
        memory.enqueue(random_pixels(memory, min(100_000, share - start), device))


def random_pixels(memory: PixelMemory, count: int, device: str) -> Pixels:
    """Pixels of 1000 images whose ids no benchmark image has."""
    context = {name: torch.ones(count, *shape, device=device) for name, shape in memory.context_shapes.items()}
    features = torch.randn(count, memory.features.shape[1], device=device)
    ids = 10_000 + torch.arange(count, device=device) % 1000
    return Pixels(features, 1000 * torch.rand(count, 2, device=device), ids, context)


def slowest(step: Callable[[], object], repeats: int) -> float:
    """The median of the slowest process's seconds over the repeats, after one run to warm up."""
    durations = []
    for _ in range(repeats + 1):
        comm.synchronize()
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        durations.append(max(comm.all_gather(time.perf_counter() - start)))
    return median(durations[1:])


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: list[dict[str, Any]]) -> None:
    """Forward, backward, update."""
    losses = model(inputs)
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def measure(args: argparse.Namespace) -> None:
    """Measures all capacities, in every process; the main process writes the rows to `args.rows`."""
    loaded = load_config(args.config_file, args.opts, import_projects(args.project))
    cfg = loaded.cfg
    choose_device(cfg, user_set="MODEL.DEVICE" in loaded.explicit)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = args.batch * comm.get_world_size(), 0.0
    images = find_segmenter(cfg).images_per_batch(cfg) // comm.get_world_size()
    first = comm.get_rank() * images
    labels = min(all_num_classes(cfg))  # valid for every segmenter
    inputs = [synthetic_input(args.size, args.instances, labels, first + i) for i in range(images)]
    for capacity in args.capacities:
        model, memory = build(cfg, capacity)
        optimizer = Trainer.build_optimizer(cfg, model)
        stored = sum(buffer.numel() * buffer.element_size() for buffer in memory.buffers()) / 2**20
        pixels = random_pixels(
            memory, images * args.instances * cfg.MODEL.IUQ.MEMORY.PIXELS_PER_INSTANCE, cfg.MODEL.DEVICE
        )
        with EventStorage():
            seconds = slowest(partial(train_step, model, optimizer, inputs), args.iters)
            sync = slowest(partial(memory.enqueue, pixels), 4 * args.iters)
        if comm.is_main_process():
            with open(args.rows, "a") as file:
                row = (comm.get_world_size(), capacity, seconds, 1000 * sync, stored)
                file.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")
            print_row(f"{row[0]}", f"{capacity}", f"{seconds:.3f}", f"{row[3]:.2f}", f"{stored:.1f}")
    if dist.is_initialized():
        comm.synchronize()


def print_row(*cells: str) -> None:
    """One line of the table."""
    print("  ".join(f"{cell:>{max(9, len(name))}}" for cell, name in zip(cells, COLUMNS, strict=True)), flush=True)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Plots step and sync time over the capacity, with a line for each number of processes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, column in zip(axes, ("step s", "sync ms"), strict=True):
        for processes in sorted({row["processes"] for row in rows}):
            mine = [row for row in rows if row["processes"] == processes]
            axis.plot(
                [r["capacity"] for r in mine], [r[column] for r in mine], "o-", label=f"{processes:.0f} processes"
            )
        axis.set(xlabel="pixels in the memory", ylabel=column, ylim=(0, None))
        axis.set_xscale("symlog", linthresh=1000, linscale=0.3)
        axis.set_xlim(0, 2 * max(row["capacity"] for row in rows) + 1000)
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def parse_args() -> argparse.Namespace:
    """The parsed command line: that of train_net.py, and what is measured."""
    parser = argument_parser()
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.epilog = None
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--capacities", type=int, nargs="+", default=[0, 10_000, 100_000, 1_000_000])
    parser.add_argument("--size", type=size, default=(128, 128), help="size of images, HxW in pixels")
    parser.add_argument("--batch", type=int, default=2, help="views of each process")
    parser.add_argument("--instances", type=int, default=8, help="instances in each image")
    parser.add_argument("--iters", type=int, default=5, help="steps, after one that warms up")
    parser.add_argument("--plot", type=Path, help="PNG file to draw")
    return parser.parse_args()


def main() -> None:
    """Prints the table, and draws the plot if asked to."""
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args.rows = os.path.join(folder, "rows.jsonl")
        print(
            f"{args.config_file}, {args.batch} views of {args.size[0]} x {args.size[1]} a process, {os.cpu_count()} cores"
        )
        print_row(*COLUMNS)
        for processes in args.processes:
            args.num_gpus = processes
            launch(measure, args)
        rows = [json.loads(line) for line in Path(args.rows).read_text().splitlines()]
    if args.plot:
        plot(rows, args.plot)
        print(f"Plot: {args.plot}")


if __name__ == "__main__":
    main()
