"""Trains and evaluates what a config describes, on any number of processes."""

from adet_iuq.engine.launching.launch import argument_parser, launch
from adet_iuq.engine.loop.trainer import Trainer
from adet_iuq.engine.setup import setup

__all__ = ["Trainer", "argument_parser", "launch", "setup"]
