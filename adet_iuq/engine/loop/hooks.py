"""Hooks that write checkpoints: at regular intervals, and of the best model so far."""

import json
import logging
import math
from pathlib import Path

from detectron2.engine import HookBase, hooks

from adet_iuq.checkpoint import Checkpointer
from adet_iuq.files import replace_file

logger = logging.getLogger(__name__)


class CheckpointHook(HookBase):
    """Calls the trainer's `save_checkpoint(name)` every `period` iterations and after the last one.

    It runs on every rank, because the random states of all ranks are gathered. detectron2's PeriodicCheckpointer does not
    serve: it saves the last iteration twice and divides by a period of 0.
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


class BestCheckpointHook(hooks.BestCheckpointer):
    """Saves the weights of the best evaluation to `model_best.pth`, as detectron2's hook does, also over a resume.

    It writes the metric to `model_best.json`. It stands after the hook that evaluates, on the main process only. The file of
    weights holds no trainer state, and `last_checkpoint` never points to it. A metric that is not a number never wins.

    Args:
        eval_period: the period of the hook that evaluates, in iterations.
        checkpointer: the object that saves the weights.
        metric: the name of the metric, of which more is better, such as "segm/AP".
        datasets: the names of the test sets; if there are several, the metric of the first one counts.
    """

    def __init__(self, eval_period: int, checkpointer: Checkpointer, metric: str, datasets: tuple[str, ...]) -> None:
        self.name = f"{datasets[0]}/{metric}" if len(datasets) > 1 else metric
        super().__init__(eval_period, checkpointer, self.name)
        self.path = Path(checkpointer.save_dir) / "model_best.json"

    def before_train(self) -> None:
        """Reads the best metric of the run that is resumed."""
        if self.trainer.start_iter > 0 and self.path.is_file() and self.path.with_suffix(".pth").is_file():
            try:
                best = json.loads(self.path.read_text())
            except json.JSONDecodeError:
                return
            if best.get("metric") == self.name:
                self.best_metric, self.best_iter = float(best["value"]), best["iteration"]

    def _best_checking(self) -> None:
        latest = self.trainer.storage.latest().get(self.name)
        if latest is None or math.isfinite(latest[0]):  # detectron2's hook would save the weights of an infinite metric
            super()._best_checking()

    def _update_best(self, val: float, iteration: int) -> bool:
        """Records a better value; returns whether it was recorded. detectron2's hook calls this."""
        is_better = bool(super()._update_best(val, iteration))
        if is_better:
            last = self.trainer.max_iter - 1
            record = {"metric": self.name, "value": val, "iteration": min(iteration, last)}
            replace_file(self.path, lambda file: file.write((json.dumps(record) + "\n").encode()))
            logger.info("Best %s so far: %.3f. Weights are in model_best.pth.", self.name, val)
        return is_better
