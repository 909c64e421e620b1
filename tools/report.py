#!/usr/bin/env python
"""Writes the report of a run, as `adet-iuq report` does: adet_iuq/reporting/__main__.py."""

import sys

import adet_iuq.ctrl_c  # noqa: F401  Ctrl-C ends this with one line
from adet_iuq.reporting.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
