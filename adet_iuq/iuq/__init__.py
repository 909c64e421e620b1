"""Instance-unique querying in plain torch: works in any trainer, needs nothing but torch.

A segmenter hands over a `Scene` and three functions (`Segmenter`); `IUQCriterion` returns the two losses.
"""

from .consistency import check_same_on_all_ranks, checksum
from .criterion import EquiSettings, InterSettings, IUQCriterion, cap_queries, connected_zero, feature_equivariance_loss
from .distributed import all_gather_rows, gather_interleaved, rank, sum_over_ranks, world_size
from .grid import sample_masks, valid_cells
from .losses import (
    INTER_LOSSES,
    NORMALIZERS,
    ImageCounts,
    build_inter_loss,
    count_images,
    query_weights,
    ramp_weight,
)
from .memory import PixelMemory
from .randomness import derive_seed, image_generator, keyed_generator
from .retrieval import InterLoss, chunked_inter_loss
from .sampling import SAMPLERS, DenseSampler, InstanceSampler, PixelSampler, SparseSampler, build_sampler
from .sharding import sharded_inter_loss
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
    "ImageCounts",
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
    "check_same_on_all_ranks",
    "checksum",
    "chunked_inter_loss",
    "connected_zero",
    "count_images",
    "derive_seed",
    "feature_equivariance_loss",
    "gather_interleaved",
    "image_generator",
    "keyed_generator",
    "query_weights",
    "ramp_weight",
    "rank",
    "sample_masks",
    "sharded_inter_loss",
    "sum_over_ranks",
    "valid_cells",
    "warp_features",
    "world_size",
]
