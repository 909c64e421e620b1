#!/usr/bin/env python
"""Runs a study, a paired comparison of arms over seeds, and reports it: tools/ablate.py STUDY.yaml [options].

    python tools/ablate.py configs/Studies/table3_shapes.yaml --quick       # all of it, small, in minutes
    nohup python tools/ablate.py STUDY.yaml > study.log &                   # the study; the same line goes on after any end
    python tools/ablate.py STUDY.yaml --status                              # done, running, left; starts nothing
    python tools/ablate.py STUDY.yaml --pause                               # the machine is quiet until --continue
    python tools/ablate.py STUDY.yaml --report [FOLDER ...]                 # tables and figures from FOLDER/runs/*.json
    python tools/ablate.py STUDY.yaml --print-commands --launcher slurm     # a line a run; later --collect, then --report

adet_iuq/studies/study.py explains the file. Runs use a copy of one revision of the code, OUTPUT/code, so commit before the
first start. Exit codes: 0; 1: runs failed; 2: something to mend; 75: stopped, go on with the same command.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from rich.console import Console

from adet_iuq.errors import EXIT_USER_ERROR, UserError
from adet_iuq.studies import Run, Runner, Study, load_study
from adet_iuq.studies.begun import begin, check_begun
from adet_iuq.studies.commands import LAUNCHERS, ONE_THREAD, command, printed_command
from adet_iuq.studies.folder import StudyFolder
from adet_iuq.studies.progress import duration, seconds_left, status_table
from adet_iuq.studies.record import is_finished
from adet_iuq.studies.report import write_report
from adet_iuq.studies.revision import Code, prepare_code
from adet_iuq.studies.runner import collect, pause, slots

REPOSITORY = Path(__file__).resolve().parents[1]


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line; the module's text describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY.yaml")
    parser.add_argument(
        "--quick", action="store_true", help="the part that the study's key quick names, in a folder of its own"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: output/studies/NAME")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at once; default: one for each GPU, else for each core"
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="local", help="of --print-commands")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--status", action="store_true", help="print how far it is")
    action.add_argument("--pause", action="store_true", help="stop the runner's trainings at once, until --continue")
    action.add_argument("--continue", dest="go_on", action="store_true", help="end a pause")
    action.add_argument(
        "--report", nargs="*", type=Path, metavar="FOLDER", help="rebuild the report in the first folder"
    )
    action.add_argument("--print-commands", action="store_true", help="print a command for each run that is not done")
    action.add_argument("--collect", action="store_true", help="take over runs that such commands have finished")
    action.add_argument(
        "--check", action="store_true", help="load the config of every arm, and say what is wrong with it"
    )
    args = parser.parse_args(words)
    if args.jobs is not None and args.jobs < 1:
        parser.error("--jobs must be at least 1")
    return args


def ablate(args: argparse.Namespace) -> int:
    """Does what the command line asks for; returns the exit code.

    Raises:
        UserError: the study, its folder or its code is not usable.
    """
    study = load_study(args.study, args.quick)
    folder = StudyFolder((args.output or Path("output/studies") / study.name).resolve())
    if args.status:
        print_status(study, folder, args.jobs)
    elif args.pause or args.go_on:
        pause(folder, wanted=args.pause)
    elif args.report is not None:
        print(f"Report: {write_report(study, args.report or [folder.path])}")
    elif args.check:
        check_configs(study)
        print(f"{study.path}: the config of every arm loads; {len(study.runs())} runs.")
    else:
        records = folder.records(study.runs())
        if not (folder.path / "code").is_dir():  # otherwise the copy there counts, not this code
            check_configs(study)
            if not (args.print_commands or args.collect):
                check_data(study)
        code = prepare_code(folder.path, REPOSITORY, [record.revision for record in records.values()])
        if args.print_commands:
            print_commands(study, [run for run in study.runs() if run.name not in records], folder, code, args.launcher)
        elif args.collect:
            print(
                "\n".join(f"collected {run.name}" for run in collect(study, folder, code.revision))
                or "nothing to collect"
            )
        else:
            return run_study(study, folder, code, args)
    return 0


def print_status(study: Study, folder: StudyFolder, jobs: int | None) -> None:
    """Prints the number of runs in each state, and the time left as far as finished runs show it."""
    runs = study.runs()
    Console().print(status_table(study.title, folder, runs))
    left = [run for run in runs if folder.state(run) != "done"]
    at_once = len(slots(jobs, os.environ, visible_gpus()))
    print(f"Time left: {duration(seconds_left(folder.records(runs), left, {}, at_once))} with {at_once} runs at once.")


def print_commands(study: Study, runs: Sequence[Run], folder: StudyFolder, code: Code, launcher: str) -> None:
    """Prints a line for a shell for each run, and a comment for one that needs none.

    Raises:
        UserError: a run was begun with another study file or code; then nothing is printed.
    """
    for run in runs:
        check_begun(folder.work(run), study, run, code.revision)
    for run in runs:
        work = folder.work(run)
        if is_finished(work):
            print(f"# {run.name} has ended: take it over with --collect")
        elif folder.state(run) == "running":
            print(f"# {run.name} is running")
        else:
            begin(work, study, run, code.revision)
            print(printed_command(study, run, code, work, launcher))


def check_configs(study: Study) -> None:
    """Loads the config of each arm on each data set.

    Raises:
        UserError: a key does not exist, or a value does not fit.
    """
    # Imported here, because detectron2 takes seconds to import and a report does not need it.
    from adet_iuq.config import import_projects, load_config

    added = import_projects([str(folder) for folder in study.projects])
    for run in study.runs():
        if run.seed == study.seeds[0]:
            try:
                load_config(str(study.config), list(run.overrides), added)
            except UserError as error:
                raise UserError(f"{study.path}, run {run.name}: {error}") from error


def check_data(study: Study) -> None:
    """Registers the data sets of each arm, so that a missing one is found before the first run; shapes are rendered.

    Raises:
        UserError: a data set is unknown or not there.
    """
    from adet_iuq.config import import_projects, load_config
    from adet_iuq.data import register_datasets

    added, seen = import_projects([str(folder) for folder in study.projects]), set()
    for run in study.runs():
        cfg = load_config(str(study.config), list(run.overrides), added).cfg
        if cfg.DATASETS.dump() not in seen:
            seen.add(cfg.DATASETS.dump())
            try:
                register_datasets(cfg)
            except UserError as error:
                raise UserError(
                    f"{study.path}, run {run.name}: {error} The heads of the study's configs and datasets/README.md say how "
                    "data sets are made."
                ) from error


def run_study(study: Study, folder: StudyFolder, code: Code, args: argparse.Namespace) -> int:
    """Does the remaining runs of a study, and then reports."""
    print(f"Code: {code.folder}, revision {code.revision}", flush=True)
    gpus = visible_gpus()

    def start(run: Run, work: Path) -> list[str]:
        return command(study, run, code, work, gpu=bool(gpus))

    environments = slots(args.jobs, {**code.environment(os.environ), **ONE_THREAD}, gpus)
    exit_code = Runner(study, folder, code.revision, start, environments).run()
    if any(folder.record(run).is_file() for run in study.runs()):
        print(f"Report: {write_report(study, [folder.path])}")
    return exit_code


def visible_gpus() -> list[str]:
    """The GPUs of this process by their names in CUDA_VISIBLE_DEVICES."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(index) for index in range(torch.cuda.device_count())]) if torch.cuda.is_available() else []


def main(words: list[str] | None = None) -> int:
    """Runs the tool; returns the exit code."""
    try:
        return ablate(parse_arguments(words))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
