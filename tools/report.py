#!/usr/bin/env python
"""Writes the report of a run, as `adet-iuq report` does: adet_iuq/reporting/__main__.py."""

import sys

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from adet_iuq.reporting.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
