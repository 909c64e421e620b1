#!/usr/bin/env python
"""Converts weights of other projects, as `adet-iuq convert` does: adet_iuq/commands/convert.py."""

import sys

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from adet_iuq.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
