"""Checkpoints: written so that a crash cannot spoil them, read without running foreign code, compared before loading."""

from adet_iuq.checkpoint.checkpointer import Checkpointer, build_checkpointer
from adet_iuq.checkpoint.resume import checkpoint_to_resume

__all__ = ["Checkpointer", "build_checkpointer", "checkpoint_to_resume"]
