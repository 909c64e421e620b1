"""How the time of this checkout compares with that of another revision, side by side on one machine.

    git worktree add ../before REVISION
    python tools/benchmark_revisions.py --before ../before --pairs 20 \
        --config-file configs/Mask2Former/R50_50ep.yaml --config-file configs/CondInst/R50_1x.yaml
    python tools/benchmark_revisions.py --before ../before --masks 0.1
    python tools/benchmark_revisions.py --before ../before --masks 0.005 --detections 1000 --result-size 800x1333 --pairs 5

Each checkout has a process of its own, and they compute in turn, so whatever slows the machine down affects both. The ratio
is the median over the pairs, given with its quartiles. Without `--masks` it is that of a training step on random weights
and images. With `--masks SHARE` it is that of turning predicted masks into results, as CondInst and Mask2Former do, and the
peak of torch's memory meanwhile; SHARE is the part of the image that a mask fills.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
CLASSES = 80
STEP, PEAK = "step", "peak"  # what a worker is asked for


def training_step(config: str, overrides: list[str], size: tuple[int, int], images: int) -> Callable[[], Any]:
    """A step of a recipe: forward, backward and update with a rate of 0."""
    import torch
    from benchmarking import synthetic_input
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    import adet_iuq.modeling  # noqa: F401  registers the segmenters
    from adet_iuq.config import load_config

    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *overrides]).cfg
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batch = [synthetic_input(size, 8, CLASSES, seed) for seed in range(images)]
    optimizer = torch.optim.SGD(model.parameters(), 0.0)

    def step() -> float:
        with EventStorage(0):
            loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def masks_step(kind: str, share: float, number: int, size: tuple[int, int]) -> Callable[[], Any]:
    """Turns ellipses at a quarter of `size` into results of `size`: `kind` is a segmenter and the form of the masks."""
    import torch

    from adet_iuq.modeling.layers import encoded_masks, stacked_masks
    from adet_iuq.modeling.layers.paste import pasted_masks
    from adet_iuq.modeling.mask2former.inference import OutputGeometry, instance_inference

    generator = torch.Generator().manual_seed(0)
    height, width = size[0] // 4, size[1] // 4
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    center = torch.rand(number, 2, generator=generator) * torch.tensor([height, width])
    radius = (share * height * width / 3.14) ** 0.5 * (0.6 + 0.8 * torch.rand(number, 2, generator=generator))
    down = ((y - center[:, :1]) / radius[:, :1]).square()
    across = ((x - center[:, 1:]) / radius[:, 1:]).square()
    logits = 8 * (1 - down[:, :, None] - across[:, None])
    classes = torch.randn(number, CLASSES + 1, generator=generator)
    segmenter, form = kind.split()
    encode = form == "RLE"

    def condinst() -> object:
        chunks = pasted_masks(logits.sigmoid(), 4, size, size)
        return encoded_masks(chunks, size) if encode else stacked_masks(chunks, number, size, logits.device)

    def mask2former() -> object:
        return instance_inference(classes, logits, OutputGeometry(size, size, size), number, None, encode=encode)

    return condinst if segmenter == "CondInst" else mask2former


def work(args: argparse.Namespace) -> None:
    """The process of one checkout: for every line that it reads, the seconds of a step or its peak in bytes."""
    import torch
    from benchmarking import peak_bytes

    torch.set_num_threads(args.threads)
    size = (args.size, args.size)
    if args.masks:
        step = masks_step(args.worker, args.masks, args.detections, args.result_size)
    else:
        step = training_step(args.worker, args.opts, size, args.batch)
    with torch.set_grad_enabled(not args.masks):
        step()
        print("ready", flush=True)
        for line in sys.stdin:
            if line.strip() == PEAK:
                print(peak_bytes(step), flush=True)
                continue
            start = time.perf_counter()
            step()
            print(time.perf_counter() - start, flush=True)


def start(checkout: Path, name: str, words: list[str]) -> subprocess.Popen[str]:
    """The process of a checkout, which has this file's code and that checkout's package."""
    paths = os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", __file__, "--worker", name, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, cwd=checkout, env={**os.environ, "PYTHONPATH": paths}
    )


def compare(before: Path, name: str, words: list[str], pairs: int) -> tuple[list[tuple[float, float]], list[float]]:
    """The seconds (before, now) of every pair; and the peaks of both in bytes."""
    workers = [start(checkout, name, words) for checkout in (before, REPOSITORY)]
    try:
        for worker in workers:
            _answer(worker)  # it is ready
        found = [(_ask(workers[0], STEP), _ask(workers[1], STEP)) for _ in range(pairs)]
        return found, [_ask(worker, PEAK) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


def _answer(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    answer = worker.stdout.readline().strip()
    if not answer:
        raise SystemExit("The process of one of the checkouts has ended; its message is above.")
    return answer


def _ask(worker: subprocess.Popen[str], what: str) -> float:
    assert worker.stdin is not None
    print(what, file=worker.stdin, flush=True)
    return float(_answer(worker))


def parse_args() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--before", type=Path, required=True, metavar="CHECKOUT", help="the folder of the other revision"
    )
    parser.add_argument("--config-file", action="append", default=[], help="a recipe that both have; may be repeated")
    parser.add_argument(
        "--masks", type=float, default=0.0, metavar="SHARE", help="measure results in place of training"
    )
    parser.add_argument("--detections", type=int, default=100, help="the number of masks of --masks")
    parser.add_argument("--result-size", type=_size, default=(512, 672), metavar="HxW", help="their size")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--size", type=int, default=256, help="height and width of the training images")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the recipes")
    args = parser.parse_args()
    if not args.config_file and not args.masks:
        parser.error("name a recipe (--config-file) or --masks")
    return args


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    """Prints a line for each recipe, or for each way to make results."""
    args = parse_args()
    if args.worker:
        work(args)
        return
    import adet_iuq.program  # noqa: F401  Ctrl-C, and warnings of imports; another revision may not have it

    words = sys.argv[1:]
    names = [f"{segmenter} {form}" for segmenter in ("CondInst", "Mask2Former") for form in ("tensor", "RLE")]
    print(f"{'':40}  {'before':>9}  {'now':>9}  {'ratio':>6}  quartiles of {args.pairs} pairs; peaks")
    for name in names if args.masks else args.config_file:
        found, peaks = compare(args.before.resolve(), name, words, args.pairs)
        before, now = zip(*found, strict=True)
        ratios = [after / first for first, after in found]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        print(
            f"{name:40}  {median(before):7.3f} s  {median(now):7.3f} s  {median(ratios):6.3f}  {low:.3f} to {high:.3f}; "
            f"{peaks[0] / 2**20:.0f} and {peaks[1] / 2**20:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
