"""Instance-unique querying in plain torch. It works in any trainer and needs nothing but torch.

A segmenter hands over a `Scene` and its retrieval (`Retriever`); `IUQCriterion` returns the two losses. Whoever wants
to change Eq. 5 reads `inter_scene.py`; Eq. 6 to 8 are in `equivariance.py`.
"""

from .cells import masks_at_cells, valid_cells
from .criterion import IUQCriterion
from .distributed import all_gather_rows, gather_interleaved, rank, sum_over_ranks, world_size
from .equivariance import EQUI_TARGETS, EquivarianceLoss
from .gradients import compare_gradients
from .image_counts import ImageCounts
from .inter_scene import INTER_LOSSES, NORMALIZERS, InterLoss, InterSceneLoss
from .memory import PixelMemory
from .randomness import image_generator, keyed_generator, tagged_seed
from .sampling import (
    SAMPLERS,
    DenseSampler,
    InstanceSampler,
    PixelSampler,
    SparseSampler,
    build_sampler,
    cap_queries,
)
from .sharding import sharded_inter_loss
from .structures import Pixels, Queries, Retriever, Scene, connected_zero
from .transforms import CropFlip, warp_features

__all__ = [
    "EQUI_TARGETS",
    "INTER_LOSSES",
    "NORMALIZERS",
    "SAMPLERS",
    "CropFlip",
    "DenseSampler",
    "EquivarianceLoss",
    "IUQCriterion",
    "ImageCounts",
    "InstanceSampler",
    "InterLoss",
    "InterSceneLoss",
    "PixelMemory",
    "PixelSampler",
    "Pixels",
    "Queries",
    "Retriever",
    "Scene",
    "SparseSampler",
    "all_gather_rows",
    "build_sampler",
    "cap_queries",
    "compare_gradients",
    "connected_zero",
    "gather_interleaved",
    "image_generator",
    "keyed_generator",
    "masks_at_cells",
    "rank",
    "sharded_inter_loss",
    "sum_over_ranks",
    "tagged_seed",
    "valid_cells",
    "warp_features",
    "world_size",
]
