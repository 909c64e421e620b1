"""Training and evaluating what a config describes, on any number of processes."""

from adet_iuq.engine.launch import argument_parser, launch
from adet_iuq.engine.setup import setup
from adet_iuq.engine.trainer import Trainer

__all__ = ["Trainer", "argument_parser", "launch", "setup"]
