"""Checkpoints: written so that a crash cannot spoil them, read without running foreign code, compared before loading."""

from adet_iuq.checkpoint.checkpointer import Checkpointer, build_checkpointer
from adet_iuq.checkpoint.resume import Checkpoint

__all__ = ["Checkpoint", "Checkpointer", "build_checkpointer"]
