"""The training loader yields one stream of samples, however many workers, ranks and resumes there are."""

import itertools
import os
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from PIL import Image

from adet_iuq.data import (
    build_test_loader,
    build_train_loader,
    check_coco_json,
    ensure_datasets_sound,
    register_datasets,
)
from adet_iuq.data.loading.loader import training_records
from adet_iuq.data.loading.sampler import (
    grouped_batches,
    rank_batches,
    repeated_stream,
    shuffled_stream,
)
from adet_iuq.errors import UserError

Batch = list[dict[str, Any]]


def batches(cfg: CfgNode, number: int, **keywords: Any) -> list[Batch]:
    arguments: dict[str, Any] = {"seed": 3, "start_iter": 0, "images_per_batch": 4, **keywords}
    return list(itertools.islice(build_train_loader(cfg, **arguments), number))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert [len(batch) for batch in first] == [len(batch) for batch in second]
    for a, b in zip(itertools.chain(*first), itertools.chain(*second), strict=True):
        for key in ("sample_index", "sample_seed", "image_id", "dataset_image_id", "file_name", "height", "width"):
            assert a[key] == b[key]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_stream_in_full(cfg: CfgNode) -> None:
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    stream = batches(cfg, 10)
    samples = list(itertools.chain(*stream))
    assert [sample["sample_index"] for sample in samples] == list(range(40))
    assert len({sample["sample_seed"] for sample in samples}) == 40
    assert sorted(sample["image_id"] for sample in samples) == sorted(list(range(10)) * 4)
    assert all(sample["dataset_image_id"] == sample["image_id"] + 1 for sample in samples)
    repeats = [sample["image"] for sample in samples if sample["image_id"] == 0]
    assert len({(image.shape, int(image.sum())) for image in repeats}) > 1  # augmented anew each time
    other = batches(cfg, 1, seed=4)
    assert [s["image_id"] for s in other[0]] != [s["image_id"] for s in stream[0]]


def test_workers_do_not_matter(cfg: CfgNode) -> None:
    expected = batches(cfg, 7)
    for workers in (1, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert_same(batches(cfg, 7), expected)


def test_resume_is_the_tail_of_the_unbroken_run(cfg: CfgNode) -> None:
    cfg.DATALOADER.NUM_WORKERS = 1
    assert_same(batches(cfg, 4, start_iter=5), batches(cfg, 9)[5:])


def test_ranks_share_the_batches_of_a_single_process(registered: CfgNode) -> None:
    cfg = registered
    cfg.DATASETS.TRAIN = (*cfg.DATASETS.TRAIN, "shapes_train")  # other aspect ratios, too
    for grouping in (True, False):
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
        whole = batches(cfg, 8)
        ranks = [batches(cfg, 8, rank=rank, world_size=2) for rank in range(2)]
        assert_same([[*a, *b] for a, b in zip(*ranks, strict=True)], whole)
        shapes = [{sample["width"] > sample["height"] for sample in batch} for batch in whole]
        assert all(len(kinds) == 1 for kinds in shapes) == grouping


def test_iterating_again_starts_over(cfg: CfgNode) -> None:
    loader = build_train_loader(cfg, seed=3, start_iter=2, images_per_batch=2)
    first = list(itertools.islice(loader, 2))
    assert_same(list(itertools.islice(loader, 2)), first)


def test_the_process_random_state_is_not_drawn_from(cfg: CfgNode) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(cfg, 2)
    assert torch.equal(torch.rand(3), expected)


def test_data_set_smaller_than_a_batch(registered: CfgNode) -> None:
    (batch,) = batches(registered, 1, images_per_batch=16)
    assert len(batch) == 16 and {sample["image_id"] for sample in batch} == {0, 1}


def test_empty_images_are_filtered_on_request(registered: CfgNode) -> None:
    assert {record["dataset_image_id"] for record in training_records_of(registered)} == {7, 8}
    registered.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    records = training_records_of(registered)
    assert [(record["image_id"], record["dataset_image_id"]) for record in records] == [(0, 7), (1, 8), (2, 9)]
    kinds = {sample["image_id"]: len(sample["instances"]) for sample in itertools.chain(*batches(registered, 3))}
    assert kinds == {0: 2, 1: 1, 2: 0}


def training_records_of(cfg: CfgNode) -> Sequence[dict[str, Any]]:
    register_datasets(cfg)
    return training_records(cfg)


def test_an_image_of_another_size_has_one_verdict(registered: CfgNode) -> None:
    name, json_file, root = registered.DATASETS.REGISTER[0]
    Image.new("RGB", (41, 30)).save(os.path.join(root, "8.png"))
    words = r"Image .*8\.png is 41 x 30 pixels \(width x height\), but its data set says 40 x 30\. Correct the entry"
    report = check_coco_json(json_file, root)
    assert report.fatal and re.search(words, report.text())
    with pytest.raises(UserError, match=words):
        ensure_datasets_sound(registered)
    registered.DATASETS.CHECK = False
    ensure_datasets_sound(registered)
    with pytest.raises(UserError, match=words):
        batches(registered, 3)
    with pytest.raises(UserError, match=words):
        list(build_test_loader(registered, name))


def test_streams_equal_detectron2s_samplers() -> None:
    ours, theirs = shuffled_stream(7, 11), iter(TrainingSampler(7, seed=11))
    assert list(itertools.islice(ours, 30)) == list(itertools.islice(theirs, 30))
    records = [{"annotations": [{"category_id": c}]} for c in (0, 0, 0, 0, 0, 1)]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.9)
    assert factors[5] > 2 > factors[0] > 1
    ours, theirs = repeated_stream(factors, 11), iter(RepeatFactorTrainingSampler(factors, seed=11))
    assert list(itertools.islice(ours, 60)) == list(itertools.islice(theirs, 60))


def test_grouping_and_slicing_by_hand() -> None:
    wide = [True, False, True, False, True]
    groups = grouped_batches(iter([0, 1, 2, 3, 4, 4, 1, 3, 0]), 2, wide)
    assert list(groups) == [[0, 2], [1, 3], [4, 4], [1, 3]]
    made = iter([[9, 8, 7, 6], [5, 4, 3, 2]])
    assert list(rank_batches(made, 1, 1, 2)) == [[(3, 6), (2, 7)]]


def test_repeat_factor_sampler_in_the_loader(cfg: CfgNode) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    unbroken = batches(cfg, 8)
    assert_same(batches(cfg, 3, start_iter=5), unbroken[5:])
    ranks = [batches(cfg, 8, rank=rank, world_size=2) for rank in range(2)]
    assert_same([[*a, *b] for a, b in zip(*ranks, strict=True)], unbroken)
    cfg.DATALOADER.SAMPLER_TRAIN = "Other"
    with pytest.raises(UserError, match="SAMPLER_TRAIN 'Other'"):
        batches(cfg, 1)


def test_batch_that_ranks_cannot_share(cfg: CfgNode) -> None:
    with pytest.raises(UserError, match="multiple of 3"):
        build_train_loader(cfg, seed=0, start_iter=0, images_per_batch=4, rank=0, world_size=3)


def damage(cfg: CfgNode, number: int) -> list[str]:
    """Cuts the first `number` image files of the training set."""
    paths = [record["file_name"] for record in training_records_of(cfg)][:number]
    for path in paths:
        with open(path, "r+b") as file:
            file.truncate(100)
    return paths


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_ends_in_one_clear_message(cfg: CfgNode, workers: int) -> None:
    cfg.DATALOADER.NUM_WORKERS = workers
    (path,) = damage(cfg, 1)
    with pytest.raises(UserError, match="cannot be read") as caught:
        batches(cfg, 20)
    assert path in str(caught.value) and "Traceback" not in str(caught.value)


def test_damaged_images_are_replaced_up_to_a_number(cfg: CfgNode) -> None:
    paths = damage(cfg, 2)
    cfg.GUARD.SKIP_CORRUPT_IMAGES = 2
    expected = batches(cfg, 12)
    assert not {sample["file_name"] for sample in itertools.chain(*expected)} & set(paths)
    assert [s["sample_index"] for s in itertools.chain(*expected)] == list(range(48))
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(batches(cfg, 12), expected)
    cfg.GUARD.SKIP_CORRUPT_IMAGES = 1
    cfg.DATALOADER.NUM_WORKERS = 0
    with pytest.raises(UserError, match="cannot be read"):
        batches(cfg, 12)


def test_a_bug_in_the_mapper_names_the_file(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adet_iuq.data.loading.mapper.transformed_mask", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match=r"preparing .*png: ZeroDivisionError"):
        batches(cfg, 1)


def test_test_loader(registered: CfgNode) -> None:
    loader = build_test_loader(registered, registered.DATASETS.TEST[0])
    samples = [sample for (sample,) in loader]
    assert len(loader) == 3 and [sample["image_id"] for sample in samples] == [7, 8, 9]
    assert all(sample["image"].shape == (3, 30, 40) and "instances" not in sample for sample in samples)
    os.unlink(samples[1]["file_name"])
    registered.DATALOADER.NUM_WORKERS = 1
    with pytest.raises(UserError, match="does not exist") as caught:
        list(build_test_loader(registered, registered.DATASETS.TEST[0]))
    assert samples[1]["file_name"] in str(caught.value) and "Traceback" not in str(caught.value)
