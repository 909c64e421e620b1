"""Hooks that write checkpoints: at regular intervals, and of the best model so far."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase

from adet_iuq.checkpoint import Checkpointer
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)


class CheckpointHook(HookBase):
    """Calls the trainer's `save_checkpoint(name)` every `period` iterations and after the last one.

    It runs on every rank, because the random states of all ranks are gathered.
    """

    def __init__(self, period: int) -> None:
        self.period = period

    def after_step(self) -> None:
        """Saves `model_<iteration>`, or `model_final` after the last iteration."""
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            self.trainer.save_checkpoint("model_final")
        elif self.period > 0 and done % self.period == 0:
            self.trainer.save_checkpoint(f"model_{self.trainer.iter:07d}")


class BestCheckpointHook(HookBase):
    """Keeps the weights of the best evaluation in `model_best.pth`, its metric in `model_best.json`.

    The hook stands after the one that evaluates, on the main process only. The file holds weights but no trainer state,
    and `last_checkpoint` never points to it. A metric that is not a number is never the best.

    Args:
        checkpointer: the object that saves the weights.
        metric: the name of the metric, of which more is better, such as "segm/AP".
        datasets: the names of the test sets; if there are several, the metric of the first one counts.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str, datasets: tuple[str, ...]) -> None:
        self.checkpointer, self.metric = checkpointer, metric
        self.name = f"{datasets[0]}/{metric}" if len(datasets) > 1 else metric
        self.path = Path(checkpointer.save_dir) / "model_best.json"
        self.best = -math.inf

    def before_train(self) -> None:
        """Reads the best metric of the run that is resumed."""
        if self.trainer.start_iter > 0 and self.path.is_file():
            try:
                best: dict[str, Any] = json.loads(self.path.read_text())
            except json.JSONDecodeError:
                return
            if best.get("metric") == self.name:
                self.best = float(best["value"])

    def after_step(self) -> None:
        """Looks for an evaluation of this iteration."""
        self._look()

    def after_train(self) -> None:
        """Looks for the evaluation after the last iteration."""
        self._look()
        if self.best == -math.inf:
            logger.info("No evaluation gave a number for %s, so there is no model_best.pth.", self.name)

    def _look(self) -> None:
        value, when = self.trainer.storage.latest().get(self.name, (math.nan, -1))
        if when != self.trainer.storage.iter or not math.isfinite(value) or value <= self.best:
            return
        self.best = value
        self.checkpointer.save("model_best")
        record = {"metric": self.name, "value": value, "iteration": min(self.trainer.iter, self.trainer.max_iter - 1)}
        replace_file(self.path, lambda file: file.write((json.dumps(record) + "\n").encode()))
        logger.info("Best %s so far: %.3f. Weights are in model_best.pth.", self.name, value)
