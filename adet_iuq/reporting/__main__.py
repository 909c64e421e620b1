"""Writes the report of a run, RUN_FOLDER/report.html, from the files in its folder (docs/report.md).

    adet-iuq report output/quickstart

Trainings and evaluations write it themselves (REPORT.ENABLED). This program is for runs that were stopped, or that had
it switched off. Nothing is predicted. The page says what it lacks because a file is missing.
`python tools/report.py` is the same program.
"""

import argparse
import sys
from pathlib import Path

from adet_iuq.errors import EXIT_USER_ERROR, UserError
from adet_iuq.reporting.process import be_modest, stand_alone


def main(words: list[str] | None = None) -> int:
    """Writes the report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="OUTPUT_DIR of a training or an evaluation")
    # `ReportProcess` sets these flags: a training needs the processors;
    # the process was started by a training and outlives it.
    for flag in ("--beside", "--started"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.beside:
        be_modest()
    if args.started:
        stand_alone()
    try:
        from adet_iuq.reporting.build import build_report  # imported at low priority, as this is half of the work

        print(f"Report: {build_report(args.folder)}")
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
