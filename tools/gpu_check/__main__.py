"""Checks and measures the package on a GPU: python -m gpu_check [options] [STAGE ...]; tools/gpu_check.sh sets the paths."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import torch

from adet_iuq.errors import EXIT_USER_ERROR

from .report import environment, write_report
from .running import Result, Stage, run_stages

# The most important first: when the time is up, the last ones are missing. Together 300 seconds.
STAGES = (
    Stage("golden", "golden tests, numbers of the published implementations", 80, "gpu_check.golden"),
    Stage("precision", "float16 and bfloat16 steps of every segmenter stay finite", 60, "gpu_check.precision"),
    Stage("share", "share of the method in a step of CondInst R50 (the paper: 5.3 %)", 50, "gpu_check.share"),
    Stage("results", "masks of results, and steps without instances", 25, "gpu_check.results"),
    Stage("deformable", "deformable attention beside grid_sample", 20, "gpu_check.deformable"),
    Stage("inter", "inter-scene loss over chunk sizes, and compiled", 30, "gpu_check.inter"),
    Stage("memory", "peak memory of a step", 20, "gpu_check.memory"),
    Stage("nccl", "NCCL with one rank", 15, "gpu_check.nccl"),
)
TABLE3 = "table3"
DRY_SECONDS = 300.0  # a stage's limit in a dry run, whatever it has on a GPU


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__)
    names = [*(stage.name for stage in STAGES), TABLE3]
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(names)}; default: all but {TABLE3}")
    parser.add_argument("--output", type=Path, default=Path("output/gpu_check"), metavar="FOLDER")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU: does all of it work?")
    parser.add_argument("--total-seconds", type=float, default=300.0, help="of all stages but table3 together")
    parser.add_argument("--table3-seconds", type=float, default=300.0, help="the time of the stage table3")
    args = parser.parse_args(words)
    unknown = [name for name in args.stages if name not in names]
    if unknown:
        parser.error(f"there is no stage {', '.join(unknown)}; there are {', '.join(names)}")
    return args


def main(words: list[str] | None = None) -> int:
    """Runs the stages and writes the report after each; returns 0 if all are ok, 1 if not, 2 if there is no GPU."""
    args = parse_arguments(words)
    if not args.dry_run and not torch.cuda.is_available():
        print(
            "Error: torch finds no GPU here (torch.cuda.is_available() is False), and the stages need one. --dry-run tries "
            "them at tiny sizes on the CPU.",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    args.output.mkdir(parents=True, exist_ok=True)
    wanted = args.stages or [stage.name for stage in STAGES]
    device = "cpu" if args.dry_run else "cuda"
    found = environment(device, args.dry_run)
    results: list[Result] = []
    for group, total in groups(args):
        chosen = [stage for stage in group if stage.name in wanted]
        for result in run_stages(chosen, device, args.dry_run, args.output, total):
            results.append(result)
            write_report(args.output, found, results)
            print(f"{result.name}: {result.outcome}, {len(result.rows)} rows, {result.seconds:.1f} s", flush=True)
    print(f"Report: {args.output / 'gpu_check.md'}, {args.output / 'gpu_check.json'}")
    return 0 if all(result.outcome == "ok" for result in results) else 1


def groups(args: argparse.Namespace) -> list[tuple[Sequence[Stage], float]]:
    """All stages, in groups with the seconds of each together: the measurements, and Table 3."""
    table3 = Stage(TABLE3, "Table 3 on embryos", args.table3_seconds, "gpu_check.table3")
    if not args.dry_run:
        return [(STAGES, args.total_seconds), ([table3], args.table3_seconds)]
    patient = [replace(stage, seconds=DRY_SECONDS) for stage in (*STAGES, table3)]
    return [(patient, len(patient) * DRY_SECONDS)]


if __name__ == "__main__":
    sys.exit(main())
