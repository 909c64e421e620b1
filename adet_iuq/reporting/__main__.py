"""python -m adet_iuq.reporting RUN_FOLDER; see `main`."""

import argparse
import sys
from pathlib import Path

from adet_iuq.errors import EXIT_USER_ERROR, UserError
from adet_iuq.reporting.process import be_modest, stand_alone


def main(words: list[str] | None = None) -> int:
    """Writes the report of a run from the files in its folder; returns the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help="OUTPUT_DIR of a training or an evaluation")
    parser.add_argument("--beside", action="store_true", help="at the lowest priority, beside a training")
    parser.add_argument("--started", action="store_true", help="by another program, whose end is not this one's")
    args = parser.parse_args(words)
    if args.beside:
        be_modest()
    if args.started:
        stand_alone()
    try:
        from adet_iuq.reporting.build import build_report  # after the priority is low: its imports are half of the work

        print(f"Report: {build_report(args.folder)}")
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
