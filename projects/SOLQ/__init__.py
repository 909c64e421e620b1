"""SOLQ (NeurIPS 2021) under its published names, and SOLQ trained with instance-unique querying, by public names only."""

from .backbone import TorchvisionResNet, build_torchvision_resnet_backbone
from .config import add_config
from .pixel_solq import PixelSOLQ
from .solq import SOLQ
from .solq_iuq import SOLQIUQ

__all__ = ["SOLQ", "SOLQIUQ", "PixelSOLQ", "TorchvisionResNet", "add_config", "build_torchvision_resnet_backbone"]
