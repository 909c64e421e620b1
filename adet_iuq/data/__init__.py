"""Data sets, the check of their files, and the loaders."""

from adet_iuq.data.annotations.checker import check_coco_json
from adet_iuq.data.annotations.coco_json import load_coco_records
from adet_iuq.data.loading.evaluation_loader import build_test_loader
from adet_iuq.data.loading.loader import TrainLoader, build_train_loader
from adet_iuq.data.loading.mapper import TrainingMapper
from adet_iuq.data.loading.registries import MAPPER_REGISTRY, SAMPLER_REGISTRY, Mapper, SampleMapper
from adet_iuq.data.registration.class_counts import fill_class_counts
from adet_iuq.data.registration.datasets import load_dataset, register_datasets, register_shapes
from adet_iuq.data.registration.soundness import ensure_datasets_sound
from adet_iuq.data.seeding import derive_seed, seeded

__all__ = [
    "MAPPER_REGISTRY",
    "SAMPLER_REGISTRY",
    "Mapper",
    "SampleMapper",
    "TrainLoader",
    "TrainingMapper",
    "build_test_loader",
    "build_train_loader",
    "check_coco_json",
    "derive_seed",
    "ensure_datasets_sound",
    "fill_class_counts",
    "load_coco_records",
    "load_dataset",
    "register_datasets",
    "register_shapes",
    "seeded",
]
