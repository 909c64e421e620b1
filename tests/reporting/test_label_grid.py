import itertools
import logging
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.structures import BitMasks, Boxes, Instances

from adet_iuq.config import load_config
from adet_iuq.data import TrainLoader, build_train_loader
from adet_iuq.reporting.label_grid import label_grid, write_label_grid
from helpers.toy_segmenter import toy_options


def sample(height: int, width: int, colour: tuple[int, int, int], side: int = 0) -> dict[str, Any]:
    """An image of one colour with a square object in its upper left corner, or none."""
    instances = Instances((height, width))
    number = int(side > 0)
    instances.gt_classes = torch.zeros(number, dtype=torch.long)
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, side, side]][:number]).reshape(-1, 4))
    masks = torch.zeros(number, height, width, dtype=torch.bool)
    masks[:, :side, :side] = True
    instances.gt_masks = BitMasks(masks)
    image = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width)
    return {"image": image, "instances": instances}


def test_channels_stand_as_the_network_gets_them() -> None:
    """The grid is in BGR: a tensor in BGR stays as it is, one in RGB is turned."""
    one = sample(400, 400, (200, 100, 50))
    assert label_grid([one], [], "BGR")[200, 200].tolist() == [200, 100, 50]
    assert label_grid([one], [], "RGB")[200, 200].tolist() == [50, 100, 200]


def test_small_inputs_are_drawn_pixel_by_pixel_and_large_ones_shrunk() -> None:
    grid = label_grid([sample(400, 320, (9, 9, 9), side=100)], ["thing"], "BGR")
    assert grid.shape == (20 + 400 + 6, 320 + 6, 3)
    inside, outside = grid[20 + 60 : 20 + 98, 60:98], grid[20 + 104 : 420, 104:320]
    assert (inside != 9).any(axis=2).all() and (outside == 9).all()
    grid = label_grid([sample(1024, 2048, (9, 9, 9), side=512)], ["thing"], "BGR")
    assert grid.shape[:2] == (20 + 512 + 6, 1024 + 6)  # shrunk to 256 x 512, which is drawn twice as large


def test_sixteen_stand_in_rows_of_four_whatever_their_sizes() -> None:
    samples = [sample(330 + 10 * (n % 3), 340, (n, n, n), side=20 * (n % 2)) for n in range(14)]
    grid = label_grid(samples, ["thing"], "BGR")
    assert grid.shape == (4 * (20 + 350 + 6), 4 * (340 + 6), 3)
    assert grid[20 + 200, 100].tolist() == [0, 0, 0] and grid[-100, 2 * 346 + 100].tolist() == [255] * 3


def test_no_sample() -> None:
    with pytest.raises(ValueError, match="no sample"):
        label_grid([], [], "BGR")


def config(folder: Path) -> CfgNode:
    cfg = load_config(None, [*toy_options(folder)[2:], "DATASETS.TEST", "()", "INPUT.MASK_FORMAT", "bitmask"]).cfg
    cfg.freeze()
    return cfg


@pytest.fixture
def cfg(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path_factory.getbasetemp() / "adet_iuq_cache"))
    return config(tmp_path)


def test_the_first_samples_are_those_of_the_run_for_any_number_of_ranks(cfg: CfgNode) -> None:
    ranks = [build_train_loader(cfg, rank=rank, world_size=2, start_iter=0) for rank in range(2)]
    batches = [list(itertools.islice(loader, 4)) for loader in ranks]
    seen = sorted((s for batch in [*batches[0], *batches[1]] for s in batch), key=lambda s: s["sample_index"])
    for loader in (*ranks, build_train_loader(cfg, rank=0, world_size=1, start_iter=7)):
        first = list(loader.first_samples(8) or ())
        assert [one["sample_index"] for one in first] == list(range(8))
        assert all(torch.equal(one["image"], other["image"]) for one, other in zip(first, seen, strict=True))


def test_a_look_changes_nothing(cfg: CfgNode, tmp_path: Path) -> None:
    """Random states, and what the loader gives, before and after."""
    loader = build_train_loader(cfg)
    iterator = iter(loader)
    next(iterator)
    plan = loader.plan
    states = random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state()
    write_label_grid(loader, cfg)
    assert (random.getstate(), str(np.random.get_state(legacy=False))) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2]) and loader.plan == plan
    second = list(itertools.islice(build_train_loader(cfg), 2))[1]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(next(iterator), second, strict=True))
    picture = cv2.imread(str(tmp_path / "label_grid.jpg"))
    assert picture is not None and picture.shape[1] > 1000


class Stateful:
    """Counts its calls, as a mapper of no known kind may."""

    def __init__(self, mapper: Any) -> None:
        self.mapper, self.calls = mapper, 0

    def __call__(self, record: dict[str, Any]) -> Any:
        self.calls += 1
        return self.mapper(record)


@pytest.mark.parametrize("foreign", ["mapper", "loader"])
def test_what_is_foreign_is_left_alone(
    cfg: CfgNode, tmp_path: Path, foreign: str, caplog: pytest.LogCaptureFixture
) -> None:
    mapper = Stateful(DatasetMapper(cfg, is_train=True))
    loader: Any = build_train_loader(cfg, mapper=mapper)
    if foreign == "loader":
        loader = [next(iter(loader))]
    calls = mapper.calls
    with caplog.at_level(logging.INFO):
        write_label_grid(loader, cfg)
    assert mapper.calls == calls and not (tmp_path / "label_grid.jpg").exists()
    (line,) = [one.message for one in caplog.records if "label_grid" in one.message]
    assert f"the training's {foreign} is" in line
    assert isinstance(loader, TrainLoader) == (foreign == "mapper")


def test_a_failure_is_one_line(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("adet_iuq.reporting.label_grid.replace_file", fail)
    write_label_grid(build_train_loader(cfg), cfg)
    (line,) = [one.message for one in caplog.records if one.levelno >= logging.WARNING]
    assert line == "No label_grid.jpg: OSError: no room"
