#!/usr/bin/env python
"""Checks data sets before any training, as `adet-iuq check` does: adet_iuq/commands/check.py."""

import sys

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from adet_iuq.commands.check import main

if __name__ == "__main__":
    sys.exit(main())
