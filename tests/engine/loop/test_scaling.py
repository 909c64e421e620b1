"""A recipe on fewer processes than it was made for: gradients accumulate, or everything is scaled."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import get_cfg, load_config
from adet_iuq.data.loading.sampler import rank_batches
from adet_iuq.engine import Trainer, argument_parser, launch, setup
from adet_iuq.engine.loop.guards import NonFiniteLossError
from adet_iuq.engine.loop.scaling import micro_batches, scaled_to
from adet_iuq.engine.loop.step import TrainStep
from adet_iuq.engine.meta_arch import unwrap
from adet_iuq.errors import UserError
from adet_iuq.modeling.iuq_settings import inter_settings
from helpers.faults import TINY, AtStep
from helpers.golden import REPOSITORY
from helpers.toy_segmenter import BareSegmenter, metrics, toy_args, train


def test_published_recipes_accumulate_on_fewer_processes(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(str(REPOSITORY / "configs/CondInst/R50_1x_iuq.yaml")).cfg
    with caplog.at_level(logging.INFO, logger="adet_iuq.engine.loop.scaling"):
        assert [micro_batches(cfg, processes) for processes in (16, 8, 4, 2, 1)] == [1, 1, 2, 4, 8]
    assert "4 micro-batches of 2 on each of 2 process(es), 16 in all" in caplog.text
    assert get_cfg().SOLVER.IMS_PER_PROCESS == 0
    assert micro_batches(load_config(str(REPOSITORY / "configs/quickstart.yaml")).cfg, 1) == 1


def test_uneven_micro_batches_are_refused() -> None:
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_PROCESS = 6, 4
    with pytest.raises(UserError, match="Choose a divisor of 6"):
        micro_batches(cfg, 1)


def test_half_a_pair_of_views_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="IMS_PER_PROCESS"):
        tiny(tmp_path, "SOLVER.IMS_PER_PROCESS", "1").train()


def test_micro_batches_are_the_slices_of_more_processes() -> None:
    batches = [list(range(100, 116)), list(range(200, 216))]
    eight = [list(rank_batches(iter(batches), 0, rank, 8)) for rank in range(8)]
    two = [list(rank_batches(iter(batches), 0, rank, 2, micro_batches=4)) for rank in range(2)]
    for step in range(2):
        for micro in range(4):
            for rank in range(2):
                assert two[rank][step][2 * micro : 2 * micro + 2] == eight[2 * micro + rank][step]


def test_everything_is_scaled_on_request() -> None:
    cfg = load_config(
        str(REPOSITORY / "configs/CondInst/R50_1x_iuq.yaml"),
        ["SOLVER.REFERENCE_WORLD_SIZE", "8", "MODEL.IUQ.INTER.START_ITER", "1000", "MODEL.IUQ.INTER.RAMP_ITERS", "300"],
    ).cfg
    cfg.freeze()
    scaled = scaled_to(cfg, 2)
    assert (scaled.SOLVER.IMS_PER_BATCH, scaled.SOLVER.MAX_ITER) == (4, 4 * cfg.SOLVER.MAX_ITER)
    assert scaled.SOLVER.BASE_LR == cfg.SOLVER.BASE_LR / 4
    assert scaled.SOLVER.WARMUP_ITERS == 4 * cfg.SOLVER.WARMUP_ITERS
    assert (scaled.MODEL.IUQ.INTER.START_ITER, scaled.MODEL.IUQ.INTER.RAMP_ITERS) == (4000, 1200)
    assert scaled.is_frozen() and cfg.MODEL.IUQ.INTER.START_ITER == 1000
    assert micro_batches(scaled, 2) == 1
    assert scaled_to(scaled, 2) is scaled
    by_share = load_config(
        str(REPOSITORY / "configs/CondInst/R50_1x_iuq.yaml"),
        ["SOLVER.REFERENCE_WORLD_SIZE", "8", "MODEL.IUQ.INTER.RAMP_ITERS", "0"],
    ).cfg
    inter = inter_settings(scaled_to(by_share, 2))
    assert (inter.start_iter, inter.ramp_iters) == (4 * inter_settings(by_share).start_iter, 0)
    assert inter.start_iter == 18000
    with pytest.raises(UserError, match="REFERENCE_WORLD_SIZE 3"):
        scaled_to(load_config(None, ["SOLVER.REFERENCE_WORLD_SIZE", "3", "SOLVER.IMS_PER_BATCH", "8"]).cfg, 2)


class Square(BareSegmenter):
    """The mean of (w . x)^2: its gradient depends on every sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1, bias=False)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        values = self.layer(torch.stack([inputs["x"] for inputs in batch]))
        from detectron2.utils.events import get_event_storage

        get_event_storage().put_scalar("count", float(sum(inputs["number"] for inputs in batch)), smoothing_hint=False)
        return {"loss_a": values.square().mean(), "loss_b": values.mean()}


def step_of(
    model: nn.Module, batch: list[dict[str, Any]], parts: int, dtype: torch.dtype | None = None
) -> EventStorage:
    step = TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.0), "cpu", dtype, parts)
    step.data_loader = [batch]
    with EventStorage() as storage:
        step.run_step()
    return storage


def samples(number: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(3, generator=generator), "number": i, "file_name": f"{i}.png"} for i in range(number)]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_gradient_is_the_mean_over_micro_batches(dtype: torch.dtype | None) -> None:
    batch = samples(6)
    model = Square()
    storage = step_of(model, batch, parts=3, dtype=dtype)
    singles = []
    for start in range(0, 6, 2):
        alone = Square()
        step_of(alone, batch[start : start + 2], parts=1, dtype=dtype)
        assert alone.layer.weight.grad is not None
        singles.append(alone.layer.weight.grad)
    tolerance: dict[str, Any] = {} if dtype is None else {"rtol": 0.02, "atol": 0.02}  # of bfloat16 itself
    torch.testing.assert_close(model.layer.weight.grad, torch.stack(singles).mean(0), **tolerance)
    if dtype is None:
        whole = Square()
        one = step_of(whole, batch, parts=1)
        torch.testing.assert_close(model.layer.weight.grad, whole.layer.weight.grad)
        assert storage.latest()["total_loss"][0] == pytest.approx(one.latest()["total_loss"][0])
    assert storage.latest()["count"] == (5.0, 0) and len(storage.history("count").values()) == 1
    assert not storage.smoothing_hints()["count"]


def accumulate_in_ddp(args: argparse.Namespace) -> None:
    """One of two processes with two micro-batches of two samples each: counts gradient exchanges, writes the gradient."""
    rank = comm.get_rank()
    # What `rank_batches` gives: slices 0 and 2 of the batch, or 1 and 3.
    batch = [samples(8)[i] for i in (2 * rank, 2 * rank + 1, 4 + 2 * rank, 5 + 2 * rank)]
    exchanges: list[int] = []

    def count(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        exchanges.append(1)
        future = dist.all_reduce(bucket.buffer() / comm.get_world_size(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    model = DistributedDataParallel(Square())
    model.register_comm_hook(None, count)
    storage = step_of(model, batch, parts=2)
    torch.save(
        {
            "gradient": model.module.layer.weight.grad,
            "exchanges": len(exchanges),
            "loss": storage.latest()["total_loss"][0],
        },
        Path(args.opts[0]) / f"{rank}.pt",
    )


def test_ranks_exchange_gradients_once_a_step(tmp_path: Path) -> None:
    launch(accumulate_in_ddp, argument_parser().parse_args(["--num-gpus", "2", str(tmp_path)]))
    whole = Square()
    storage = step_of(whole, samples(8), parts=1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["gradient"], whole.layer.weight.grad)
        assert found["exchanges"] == 1
        assert found["loss"] == pytest.approx(storage.latest()["total_loss"][0])


def test_the_guard_names_the_micro_batch(tmp_path: Path) -> None:
    batch = samples(6)
    batch[3]["x"] = torch.full((3,), float("nan"))
    with pytest.raises(
        NonFiniteLossError, match=r"loss_a = nan, loss_b = nan on rank 0, with the images 2\.png, 3\.png\."
    ):
        step_of(Square(), batch, parts=3)


def test_an_accumulating_run_resumes_exactly(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "DATASETS__TEST": "()", "SOLVER__IMS_PER_BATCH": 6, "SOLVER__IMS_PER_PROCESS": 2, "SOLVER__MAX_ITER": 8
    }  # fmt: skip
    train(toy_args(tmp_path, **options))
    unbroken = metrics(tmp_path)
    assert len(unbroken) == 8
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    train(toy_args(tmp_path, resume=True, **options))
    assert metrics(tmp_path) == unbroken


def tiny(output: Path, *options: str) -> Trainer:
    """The smallest CondInst with instance-unique querying: 8 views a step."""
    return Trainer(setup(argument_parser().parse_args([*TINY, *options, "OUTPUT_DIR", str(output)])))


def test_the_memory_holds_the_same_pixels_after_each_step(tmp_path: Path) -> None:
    """Weights stand still, so that only the order and choice of pixels can differ."""
    still = ["SOLVER.BASE_LR", "0.0", "SOLVER.MAX_ITER", "3", "SOLVER.CHECKPOINT_PERIOD", "0"]
    states: dict[str, list[dict[str, Tensor]]] = {}
    for limit in ("0", "2"):
        trainer = tiny(tmp_path / limit, *still, "SOLVER.IMS_PER_PROCESS", limit)
        assert trainer._trainer.micro_batches == (4 if limit == "2" else 1)
        found = states[limit] = []
        keep = lambda run, found=found: found.append(unwrap(run.model).iuq_state())  # noqa: E731
        trainer.register_hooks([AtStep(1, keep), AtStep(2, keep)])
        trainer.train()
        found.append(unwrap(trainer.model).iuq_state())
    assert len(states["0"]) == len(states["2"]) == 3
    for whole, parts in zip(states["0"], states["2"], strict=True):
        assert whole.keys() == parts.keys()
        assert torch.equal(whole["image_ids"], parts["image_ids"]) and torch.equal(
            whole["locations"], parts["locations"]
        )
        assert torch.equal(whole["cursor"][:2], parts["cursor"][:2])  # the third counts the writes
        torch.testing.assert_close(whole["features"], parts["features"], rtol=1e-4, atol=1e-5)
    assert int(states["2"][2]["cursor"][1]) > 100
    lines = [json.loads(line) for line in (tmp_path / "2" / "metrics.json").read_text().splitlines()]
    assert len(lines) == 3 and all("iuq/memory_fill" in line for line in lines)
