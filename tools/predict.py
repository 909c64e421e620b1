#!/usr/bin/env python
"""Predictions for any images, as `adet-iuq predict` makes them: adet_iuq/commands/predict.py."""

import sys

import adet_iuq.ctrl_c  # noqa: F401  Ctrl-C ends this with one line
from adet_iuq.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
