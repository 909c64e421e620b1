#!/usr/bin/env python
"""Predictions for any images, as `adet-iuq predict` makes them: adet_iuq/commands/predict.py."""

import sys

from adet_iuq.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
