#!/usr/bin/env python
"""Writes the report of a run, RUN_FOLDER/report.html, from the files in its folder: python tools/report.py RUN_FOLDER.

Trainings and evaluations write it themselves (REPORT.ENABLED); this is for runs that were stopped, or that had it switched
off. Nothing is predicted. What a missing file keeps from the page is said there; see docs/report.md.
"""

import sys

import adet_iuq.ctrl_c  # noqa: F401  Ctrl-C ends this with one line
from adet_iuq.reporting.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
