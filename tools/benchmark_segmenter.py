r"""Seconds and peak memory of a training step and of an inference, split into parts, with and without IUQ.

    python tools/benchmark_segmenter.py --config-file configs/CondInst/R50_1x_iuq.yaml \
        --config-file configs/SOLOv2/R50_1x_iuq.yaml --size 256x256 --batch 2 --instances 8 --iters 5 \
        --test-size 800x1333 [KEY VALUE ...]

A config names a base segmenter or its IUQ version; both are measured on random weights (or --weights) and random images,
in one process and in turn. The memory of pixels is full, ramps are over, the learning rate is 0. `ratio` is the median
over the rounds of the time against the base segmenter's in the same round. Parts: adet_iuq/modeling/parts.py; those of a
training step hold the backward pass of what the part computed. Decoding masks, the <q, I> of the queries, counts as heads,
but the masks that grid segmenters decode to score their candidates count as nms. `paired` views: as many views as the
batch has images, half of them transformed; `extra`: all images, and as many views on top.

Random weights detect nothing at the recipes' thresholds, so NMS and postprocessing need lower ones, for example
    MODEL.FCOS.INFERENCE_TH_TEST 0.01 MODEL.SOLOV2.SCORE_THR 0.01 MODEL.SOLOV2.UPDATE_THR 0.0
`found` says how many detections there were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import torch
from benchmarking import alternate, peak_bytes, synthetic_input
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage
from part_clock import OTHER, PartClock
from torch import nn

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.checkpoint import build_checkpointer
from adet_iuq.config import add_project_option, import_projects, load_config
from adet_iuq.config.num_classes import all_num_classes
from adet_iuq.engine import Trainer
from adet_iuq.engine.loop.step import autocast_dtype
from adet_iuq.engine.meta_arch import find_segmenter
from adet_iuq.engine.setup import choose_device
from adet_iuq.errors import UserError
from adet_iuq.iuq import Pixels
from adet_iuq.modeling.iuq_meta_arch import IUQMetaArch
from adet_iuq.modeling.parts import part

OPTIMIZER = "optimizer"
TRAINING_PARTS = ("backbone", "heads", "targets", "losses", "iuq", OPTIMIZER, OTHER)
INFERENCE_PARTS = ("backbone", "heads", "nms", "postprocess", OTHER)
# Settings of MODEL.IUQ by name: inter-scene loss, equivariance loss, kind of views. None: the base segmenter.
SETTINGS: dict[str, tuple[bool, bool, str] | None] = {
    "off": None,
    "inter": (True, False, "paired"),
    "equi paired": (False, True, "paired"),
    "both paired": (True, True, "paired"),
    "equi extra": (False, True, "extra"),
    "both extra": (True, True, "extra"),
}


@dataclass
class Candidate:
    """One segmenter with one setting."""

    setting: str
    cfg: CfgNode
    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: int  # number of images that a step reads

    @property
    def views(self) -> int:
        """The number of images that pass the network in a step."""
        iuq = self.cfg.MODEL.IUQ
        return self.images if self.setting == "off" or not iuq.EQUI.ENABLED else 2 * self.images


def candidates(cfg: CfgNode, settings: list[str], batch: int, weights: str | None) -> Iterator[Candidate]:
    """The segmenter of a config with each of the settings that it supports; all of them share one set of weights.

    Raises:
        UserError: the segmenter refuses its config, or the weights do not load.
    """
    base = cfg.MODEL.META_ARCHITECTURE.removesuffix("IUQ")
    first: nn.Module | None = None
    for setting, keys in SETTINGS.items():
        if setting not in settings or (keys is not None and base + "IUQ" not in META_ARCH_REGISTRY):
            continue
        own = cfg.clone()
        own.SOLVER.IMS_PER_BATCH, own.SOLVER.BASE_LR = batch, 0.0
        own.MODEL.META_ARCHITECTURE = base if keys is None else base + "IUQ"
        own.TEST.QUERY_PROBE.ENABLED = False  # nothing is evaluated, and a base refuses it

        if keys is not None:
            own.MODEL.IUQ.INTER.ENABLED, own.MODEL.IUQ.EQUI.ENABLED, own.MODEL.IUQ.EQUI.VIEWS = keys
        torch.manual_seed(0)
        model = Trainer.build_model(own)
        if first is None:
            first = model
            if weights is not None:
                build_checkpointer(own, model).load(weights)
        else:
            share_weights(first, model)
        yield Candidate(
            setting, own, model, Trainer.build_optimizer(own, model), find_segmenter(own).images_per_batch(own)
        )


def share_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies the parameters and buffers of `source` into `target`, which has the same ones and possibly more."""
    for prefix, module in source.named_modules():
        same = target.get_submodule(prefix)
        same._parameters.update(module._parameters)
        same._buffers.update(module._buffers)


def train_step(candidate: Candidate, inputs: list[dict]) -> PartClock:
    """One training step, timed."""
    cfg, model = candidate.cfg, candidate.model
    dtype = autocast_dtype(cfg)
    model.train()
    with PartClock(cfg.MODEL.DEVICE) as clock:
        with torch.autocast(torch.device(cfg.MODEL.DEVICE).type, dtype=dtype, enabled=dtype is not None):
            losses = model(inputs[: candidate.images])
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        candidate.optimizer.zero_grad()
        clock.backward(total)
        with part(OPTIMIZER):
            candidate.optimizer.step()
    if not torch.isfinite(total):
        raise UserError("The loss is not finite on these weights; give trained ones with --weights.")
    return clock


def fill_memory(candidate: Candidate) -> None:
    """Fills the pixel memory, if there is one, with copies of a step's pixels, under the ids of other images."""
    memory = candidate.model.iuq_criterion.memory if isinstance(candidate.model, IUQMetaArch) else None
    if memory is None or memory.capacity == 0 or len(memory) == 0:
        return
    seen = memory.pixels()
    rows = torch.arange(memory.capacity, device=seen.features.device) % len(seen)
    copies: Pixels = seen.select(rows)
    copies.image_ids = 10_000 + torch.arange(memory.capacity, device=rows.device)
    memory.enqueue(copies)


def benchmark_training(found: list[Candidate], args: argparse.Namespace) -> None:
    """Prints the table of training steps."""
    cfg = found[0].cfg
    labels = min(all_num_classes(cfg))  # valid for every segmenter
    inputs = [synthetic_input(args.size, args.instances, labels, seed) for seed in range(args.batch)]
    for candidate in found:
        if isinstance(candidate.model, IUQMetaArch):
            inter = candidate.model.iuq_criterion.inter
            candidate.model.set_iteration(inter.start_iter + inter.ramp_iters + 1)
        train_step(candidate, inputs)
        fill_memory(candidate)
    steps = [partial(train_step, candidate, inputs) for candidate in found]
    clocks = alternate(steps, args.iters)
    height, width = args.size
    print(f"training step, {args.batch} x {height} x {width}, {args.instances} instances an image; seconds")
    print_row("setting", "images", "views", "step", "ratio", *TRAINING_PARTS, "targets+losses", "peak MB")
    for candidate, step, mine in zip(found, steps, clocks, strict=True):
        total, ratio, seconds = summary(mine, clocks[0], TRAINING_PARTS)
        share = f"{100 * (seconds['targets'] + seconds['losses']) / total:.1f} %"
        peak = f"{peak_bytes(step, cfg.MODEL.DEVICE) / 2**20:.0f}"
        numbers = (f"{value:.3f}" for value in seconds.values())
        counts = (str(candidate.images), str(candidate.views))
        print_row(candidate.setting, *counts, f"{total:.3f}", f"{ratio:.2f}", *numbers, share, peak)


def infer(candidate: Candidate, inputs: dict) -> tuple[PartClock, int]:
    """One timed inference, and the number of its detections."""
    candidate.model.eval()
    image = {key: inputs[key] for key in ("image", "height", "width")}
    with torch.no_grad(), PartClock(candidate.cfg.MODEL.DEVICE) as clock:
        result = candidate.model([image])
    return clock, len(result[0]["instances"])


def benchmark_inference(found: list[Candidate], args: argparse.Namespace) -> None:
    """Prints the table of inferences: the base segmenter, and one trained with both losses."""
    compared = [candidate for candidate in found if candidate.setting in ("off", "both paired")]
    inputs = synthetic_input(args.test_size, 0, 1, 0)
    steps = [partial(infer, candidate, inputs) for candidate in compared]
    results = alternate(steps, args.iters)
    height, width = args.test_size
    print(f"inference, {height} x {width}; seconds")
    print_row("setting", "found", "image", "ratio", *INFERENCE_PARTS, "share of postprocess", "peak MB")
    base = [clock for clock, _ in results[0]]
    for candidate, step, mine in zip(compared, steps, results, strict=True):
        total, ratio, seconds = summary([clock for clock, _ in mine], base, INFERENCE_PARTS)
        share = f"{100 * seconds['postprocess'] / total:.1f} %"
        peak = f"{peak_bytes(step, candidate.cfg.MODEL.DEVICE) / 2**20:.0f}"
        numbers = (f"{value:.3f}" for value in seconds.values())
        print_row(candidate.setting, str(mine[0][1]), f"{total:.3f}", f"{ratio:.2f}", *numbers, share, peak)


def summary(
    clocks: list[PartClock], base: list[PartClock], names: tuple[str, ...]
) -> tuple[float, float, dict[str, float]]:
    """The medians over the rounds: all seconds, their ratio to the base's, and the seconds of each part."""
    totals, others = ([sum(t.total for t in clock.times.values()) for clock in some] for some in (clocks, base))
    parts = {name: median(clock.times[name].total for clock in clocks) for name in names}
    return median(totals), median(a / b for a, b in zip(totals, others, strict=True)), parts


def print_row(*cells: str) -> None:
    """One line of a table."""
    print("  ".join(f"{cell:>{max(9, len(cell))}}" for cell in cells), flush=True)


def size(text: str) -> tuple[int, int]:
    """Two numbers from HxW."""
    height, width = text.split("x")
    return int(height), int(width)


def parse_args() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", action="append", required=True, help="repeat it for more segmenters")
    parser.add_argument("--size", type=size, default=(256, 256), help="size of training images, HxW in pixels")
    parser.add_argument("--test-size", type=size, help="size of the image of the inference; default: --size")
    parser.add_argument("--batch", type=int, default=2, help="images of a step without IUQ")
    parser.add_argument("--instances", type=int, default=8, help="instances in each image")
    parser.add_argument("--iters", type=int, default=5, help="rounds, after one that warms up")
    parser.add_argument(
        "--setting", action="append", choices=SETTINGS, help="measure it beside `off`; repeatable; default: all"
    )
    parser.add_argument("--only", choices=("training", "inference"), help="leave the other one out")
    parser.add_argument("--weights", help="checkpoint to load")
    add_project_option(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of every config")
    args = parser.parse_args()
    args.test_size = args.test_size or args.size
    return args


def main() -> int:
    """Prints the tables of every config."""
    args = parse_args()
    for config_file in args.config_file:
        try:
            loaded = load_config(config_file, args.opts, import_projects(args.project))
            choose_device(loaded.cfg, user_set="MODEL.DEVICE" in loaded.explicit)
            found = list(candidates(loaded.cfg, ["off", *(args.setting or SETTINGS)], args.batch, args.weights))
            name = type(found[0].model).__name__
            print(f"\n{name}, {config_file}, {loaded.cfg.MODEL.DEVICE}, {torch.get_num_threads()} threads", flush=True)
            with EventStorage():
                if args.only != "inference":
                    benchmark_training(found, args)
                if args.only != "training":
                    benchmark_inference(found, args)
        except UserError as error:
            print(f"{config_file}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
