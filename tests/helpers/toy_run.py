"""tools/train_net.py with the toy segmenter and the faults of helpers/faults.py, as a program of its own.

PRESS_BEFORE=<rank> (environment): there Ctrl-C is pressed before the training is set up, while the other ranks wait.
"""

import argparse
import os
import time

from detectron2.utils import comm

import helpers.toy_segmenter  # noqa: F401  registers it
from adet_iuq.engine import argument_parser, launch
from helpers import faults


def main(args: argparse.Namespace) -> None:
    """What every process does."""
    if os.environ.get("PRESS_BEFORE") == str(comm.get_rank()):
        faults.press_ctrl_c()
        time.sleep(60)
    comm.synchronize()
    faults.main(args)


if __name__ == "__main__":
    launch(main, argument_parser().parse_args())
