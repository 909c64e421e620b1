#!/usr/bin/env python
"""Predictions for any images, as `adet-iuq predict` makes them: adet_iuq/commands/predict.py."""

import sys

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from adet_iuq.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
