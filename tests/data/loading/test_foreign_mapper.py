"""Mappers from outside: reproducible, told apart, and refused in words."""

import itertools
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper

from adet_iuq.data import (
    MAPPER_REGISTRY,
    SAMPLER_REGISTRY,
    SampleMapper,
    TrainingMapper,
    TrainLoader,
    build_test_loader,
    build_train_loader,
    derive_seed,
)
from adet_iuq.data.loading.sampler import shuffled_stream
from adet_iuq.errors import UserError

Record = dict[str, Any]


def draw(record: Record) -> Record:
    """A mapper without the numbers of the loader, that draws from all three generators."""
    drawn = torch.tensor([random.random(), float(np.random.rand()), float(torch.rand(()))], dtype=torch.float64)
    return {"image": drawn, "file_name": record["file_name"]}


def samples(loader: TrainLoader, batches: int) -> list[Record]:
    return list(itertools.chain(*itertools.islice(loader, batches)))


def test_draws_depend_on_the_sample_alone(cfg: CfgNode) -> None:
    build = partial(build_train_loader, cfg, mapper=draw, seed=3)
    unbroken = samples(build(images_per_batch=2), 6)
    assert len({float(x) for sample in unbroken for x in sample["image"]}) == 36
    cfg.DATALOADER.NUM_WORKERS = 2
    torch.manual_seed(8)
    resumed = samples(build(images_per_batch=4, start_iter=1), 2)
    for first, second in zip(unbroken[4:], resumed, strict=True):
        assert torch.equal(first["image"], second["image"]) and first["sample_index"] == second["sample_index"]


def test_the_loader_adds_the_numbers_that_a_mapper_drops(cfg: CfgNode) -> None:
    expected = samples(build_train_loader(cfg, seed=3, images_per_batch=2), 3)
    found = samples(build_train_loader(cfg, seed=3, images_per_batch=2, mapper=draw), 3)
    for key in ("image_id", "sample_index", "sample_seed", "file_name"):
        assert [sample[key] for sample in found] == [sample[key] for sample in expected]
    assert found[0]["sample_seed"] == derive_seed(3, 0)


def test_detectron2s_own_mapper(cfg: CfgNode) -> None:
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    build = partial(build_train_loader, cfg, mapper=DatasetMapper(cfg, is_train=True), images_per_batch=2)
    for first, second in zip(samples(build(), 4), samples(build(), 4), strict=True):
        assert torch.equal(first["image"], second["image"]) and first["image_id"] == second["image_id"]
        assert torch.equal(first["instances"].gt_masks.tensor, second["instances"].gt_masks.tensor)


def test_a_loader_can_be_told_where_to_start(cfg: CfgNode) -> None:
    told = build_train_loader(cfg)
    told.start_at(seed=3, iteration=2, images_per_batch=4, micro_batches=2)
    built = build_train_loader(cfg, seed=3, start_iter=2, images_per_batch=4, micro_batches=2)
    for first, second in zip(samples(told, 2), samples(built, 2), strict=True):
        assert torch.equal(first["image"], second["image"]) and first["sample_index"] == second["sample_index"]
    with pytest.raises(UserError, match="3 equal micro-batches"):
        told.start_at(seed=3, iteration=2, images_per_batch=4, micro_batches=3)


def test_what_a_mapper_needs(cfg: CfgNode) -> None:
    class Panoptic(SampleMapper):
        needs = "segments_info"

        def __call__(self, record: Record) -> Record:
            return {"image": torch.zeros(3, len(record["segments_info"]), 1)}

    with pytest.raises(UserError, match=r"'shapes_train' has no segments_info; .* Panoptic"):
        build_train_loader(cfg, mapper=Panoptic())
    cfg.DATASETS.TRAIN = ("shapes_panoptic_train",)
    assert samples(build_train_loader(cfg, mapper=Panoptic()), 1)
    with pytest.raises(UserError, match=r"'shapes_panoptic_train' has no annotations; .* draw \("):
        build_train_loader(cfg, mapper=draw)


def test_nothing_is_another_image(cfg: CfgNode) -> None:
    refused = build_train_loader(cfg, images_per_batch=10)
    names = sorted({sample["file_name"] for sample in samples(refused, 1)})[:2]
    picky = build_train_loader(cfg, mapper=lambda record: None if record["file_name"] in names else draw(record))
    assert not {sample["file_name"] for sample in samples(picky, 4)} & set(names)
    with pytest.raises(UserError, match="1000 images in a row gave no sample"):
        samples(build_train_loader(cfg, mapper=lambda record: None), 1)


def test_an_image_that_a_mapper_cannot_read_is_told_as_ours(registered: CfgNode) -> None:
    cfg = registered
    for sample in samples(build_train_loader(cfg, images_per_batch=8), 1):
        open(sample["file_name"], "w").close()
    for mapper in (DatasetMapper(cfg, is_train=True), TrainingMapper(cfg)):
        with pytest.raises(UserError, match=r"Image .* cannot be read .*SKIP_CORRUPT_IMAGES"):
            samples(build_train_loader(cfg, mapper=mapper), 1)


def test_registered_mappers_and_samplers_are_named_by_the_config(cfg: CfgNode) -> None:
    @MAPPER_REGISTRY.register("drawing_for_tests")
    def build(cfg: CfgNode) -> Any:
        return draw

    @SAMPLER_REGISTRY.register("FirstForTests")
    def first(cfg: CfgNode, records: Any) -> Any:
        return forever

    def forever(seed: int) -> Iterator[int]:
        return itertools.repeat(0)

    cfg.INPUT.DATASET_MAPPER_NAME, cfg.DATALOADER.SAMPLER_TRAIN = "drawing_for_tests", "FirstForTests"
    found = samples(build_train_loader(cfg, images_per_batch=2), 3)
    assert {sample["image_id"] for sample in found} == {0} and found[0]["image"].shape == (3,)
    cfg.DATALOADER.SAMPLER_TRAIN = "Last"
    with pytest.raises(
        UserError, match="'Last': choose TrainingSampler or RepeatFactorTrainingSampler or FirstForTests"
    ):
        build_train_loader(cfg)
    assert next(shuffled_stream(3, 0)) in range(3)


def test_a_mapper_for_evaluation(registered: CfgNode) -> None:
    name = registered.DATASETS.TEST[0]
    loader = build_test_loader(registered, name, mapper=lambda record: {"image_id": record["image_id"], "own": True})
    assert list(loader) == [[{"image_id": number, "own": True}] for number in (7, 8, 9)]
    with pytest.raises(UserError, match=r"7\.png cannot be used: out of milk"):
        list(build_test_loader(registered, name, mapper=refuse))


def refuse(record: Record) -> Record:
    raise ValueError("out of milk")
