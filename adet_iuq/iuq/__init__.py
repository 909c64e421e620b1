"""Instance-unique querying in plain torch: works in any trainer, needs nothing but torch.

A segmenter hands over a `Scene` and three functions (`Segmenter`); `IUQCriterion` returns the two losses.
"""

from .criterion import EquiSettings, InterSettings, IUQCriterion, cap_queries, connected_zero, feature_equivariance_loss
from .distributed import all_gather_rows, rank, world_size
from .grid import sample_masks, valid_cells
from .losses import INTER_LOSSES, NORMALIZERS, build_inter_loss, ramp_weight
from .memory import PixelMemory
from .randomness import derive_seed, image_generator, keyed_generator
from .retrieval import InterLoss, chunked_inter_loss
from .sampling import SAMPLERS, DenseSampler, InstanceSampler, PixelSampler, SparseSampler, build_sampler
from .structures import Pixels, Queries, Scene, Segmenter
from .transforms import CropFlip, warp_features

__all__ = [
    "INTER_LOSSES",
    "NORMALIZERS",
    "SAMPLERS",
    "CropFlip",
    "DenseSampler",
    "EquiSettings",
    "IUQCriterion",
    "InstanceSampler",
    "InterLoss",
    "InterSettings",
    "PixelMemory",
    "PixelSampler",
    "Pixels",
    "Queries",
    "Scene",
    "Segmenter",
    "SparseSampler",
    "all_gather_rows",
    "build_inter_loss",
    "build_sampler",
    "cap_queries",
    "chunked_inter_loss",
    "connected_zero",
    "derive_seed",
    "feature_equivariance_loss",
    "image_generator",
    "keyed_generator",
    "ramp_weight",
    "rank",
    "sample_masks",
    "valid_cells",
    "warp_features",
    "world_size",
]
