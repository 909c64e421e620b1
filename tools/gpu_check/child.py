"""Runs one stage in a process of its own: python -m gpu_check.child MODULE DEVICE real|dry SECONDS ROWS_FILE.

Every row is in the file as soon as it is known, so that a stage that is ended keeps those that it had.
"""

import importlib
import json
import sys
from pathlib import Path

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from .stage import Settings


def main() -> None:
    """Appends the rows of the stage to the file, one line of JSON each."""
    module, device, size, seconds, path = sys.argv[1:]
    settings = Settings(device, size == "dry", float(seconds), Path(path).parent)
    with open(path, "w", encoding="utf-8") as file:
        for row in importlib.import_module(module).rows(settings):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
