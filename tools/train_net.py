#!/usr/bin/env python
"""Trains and evaluates, as `adet-iuq train` does: adet_iuq/commands/train.py."""

import sys

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports
import adet_iuq.threads  # noqa: F401  before torch: threads that wait leave their core to others

from adet_iuq.commands.train import main as command
from adet_iuq.commands.train import run as main  # for users who launch the processes themselves

__all__ = ["command", "main"]

if __name__ == "__main__":
    sys.exit(command())
