"""SparseInst as published, and trained with instance-unique querying, through public names only."""

from .config import add_config
from .mapper import SparseInstMapper
from .resnet_vd import ResNetVd
from .sparseinst import SparseInst
from .sparseinst_iuq import SparseInstIUQ

__all__ = ["ResNetVd", "SparseInst", "SparseInstIUQ", "SparseInstMapper", "add_config"]
