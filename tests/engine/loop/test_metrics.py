import json
import logging
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage

from adet_iuq.engine.loop.metrics import MetricsWriter, ProgressPrinter, history, restore_history, trim_metrics
from helpers.toy_segmenter import toy_args, train


def test_trimming_drops_what_comes_again_and_half_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps({"iteration": i, "loss": i}) + "\n" for i in (4, 9, 14, 19)) + '{"iterat')
    assert trim_metrics(str(tmp_path), 10) == 9
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [4, 9]
    assert trim_metrics(str(tmp_path / "elsewhere"), 10) == -1


def test_a_line_lost_between_checkpoint_and_writer_comes_back(tmp_path: Path) -> None:
    train(toy_args(tmp_path, SOLVER__MAX_ITER=6, SOLVER__CHECKPOINT_PERIOD=3, DATASETS__TEST="()"))
    path = tmp_path / "metrics.json"
    before = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in before if json.loads(line)["iteration"] < 2))
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    train(toy_args(tmp_path, resume=True, SOLVER__MAX_ITER=6, SOLVER__CHECKPOINT_PERIOD=3, DATASETS__TEST="()"))
    after = path.read_text().splitlines()
    for old, new in zip(before, after, strict=True):
        assert json.loads(old)["total_loss"] == json.loads(new)["total_loss"]
        assert json.loads(old)["lr"] == json.loads(new)["lr"]


def test_smoothing_goes_on_after_a_restore(tmp_path: Path) -> None:
    with EventStorage() as storage:
        for storage.iter in range(10):
            storage.put_scalar("loss", float(storage.iter))
            storage.put_scalar("lr", 0.1, smoothing_hint=False)
        storage.put_scalar("old", 1.0)
        saved = json.loads(json.dumps(history(storage)))
        storage.iter = 10
        storage.put_scalar("loss", 100.0)
        expected = storage.latest_with_smoothing_hint(20)["loss"]
    with EventStorage(10) as storage:
        restore_history(storage, saved)
        storage.iter = 10
        storage.put_scalar("loss", 100.0)
        assert storage.latest_with_smoothing_hint(20)["loss"] == expected
        writer = MetricsWriter(str(tmp_path / "m.json"), last_written=9)
        writer.write()
        writer.close()
    (line,) = (tmp_path / "m.json").read_text().splitlines()
    assert json.loads(line) == {"iteration": 10, "loss": expected[0]}


def test_the_log_shows_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger("detectron2.utils.events"), "info", lines.append)
    with EventStorage(4) as storage:
        scalars = {"total_loss": 3.0, "loss_mask": 0.5, "time": 2.0, "data_time": 0.25}
        for name, value in {**scalars, "iuq/memory_fill": 0.125, "iuq/fire_rate": 0.03}.items():
            storage.put_scalar(name, value)
        storage.put_scalar("lr", 0.01, smoothing_hint=False)
        ProgressPrinter(65).write()
        ProgressPrinter(4).write()
    usual, ours = lines
    for part in ("iter: 4", "eta: 0:02:00", "total_loss: 3", "loss_mask: 0.5", "lr: 0.01", "time: 2.0"):
        assert part in usual
    assert "data_time: 0.25" in usual and ours == "memory_fill: 0.125  fire_rate: 0.03"
