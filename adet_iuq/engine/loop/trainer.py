"""The trainer: detectron2's DefaultTrainer with this project's step, data, schedules, guards and exact resume."""

import logging
import os
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from torch import nn

from adet_iuq.checkpoint import Checkpointer, build_checkpointer
from adet_iuq.data import TrainLoader, build_test_loader, build_train_loader, register_datasets
from adet_iuq.data.registration.mosaic import evaluated_sets
from adet_iuq.engine.console import IN_LOG_ONLY, display
from adet_iuq.engine.description import write_description
from adet_iuq.engine.launching.interruption import StopRequest, handled
from adet_iuq.engine.loop import metrics, state
from adet_iuq.engine.loop.batches import put_at_start
from adet_iuq.engine.loop.evaluation import evaluate_all
from adet_iuq.engine.loop.guards import CollapseGuard
from adet_iuq.engine.loop.hooks import BestCheckpointHook, CheckpointHook
from adet_iuq.engine.loop.introduction import introduction, parameter_counts
from adet_iuq.engine.loop.lr_scheduler import build_lr_scheduler
from adet_iuq.engine.loop.optimizer import build_optimizer
from adet_iuq.engine.loop.progress import ProgressDisplay, WatchedLoader, results_line
from adet_iuq.engine.loop.scaling import micro_batches, scaled_to
from adet_iuq.engine.loop.step import TrainStep, autocast_dtype
from adet_iuq.engine.loop.stopping import ending_with_signals, evaluation_with_signals, save_and_stop
from adet_iuq.engine.meta_arch import checked_segmenter, find_segmenter, unwrap
from adet_iuq.errors import TrainingInterrupted, UserError
from adet_iuq.evaluation import build_evaluator, report_results
from adet_iuq.evaluation.queries import check_probe
from adet_iuq.modeling import Segmenter
from adet_iuq.reporting.hook import ReportHook

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains what a config describes.

    As with DefaultTrainer the order is `Trainer(cfg)`, `resume_or_load(resume)`, `train()`. A run that is killed and resumed
    has the same samples, weights, optimiser, schedule, random states, pixel memory and metrics as an unbroken one.

    Attributes:
        data_seed: the seed of all samples and their augmentation: SEED, or drawn once for all ranks and saved.
        last_results: the results of the latest evaluation.
        saved_iter: the iteration of the latest checkpoint of this process, or -1.

    Raises:
        UserError: the config asks for something that does not exist or does not fit.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own constructor is not called: it fixes the kind of step, and it builds the loader before a
        # resumed run can say where to start.
        TrainerBase.__init__(self)
        self.cfg = cfg = scaled_to(cfg, comm.get_world_size())
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.data_seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.last_results: dict[str, Any] = {}
        self._resume_state: dict[str, Any] = {}
        self.saved_iter = -1
        self._stop = StopRequest()

        model: nn.Module = checked_segmenter(self.build_model(cfg))
        optimizer = self.build_optimizer(cfg, model)
        device = torch.device(cfg.MODEL.DEVICE)
        devices = [torch.cuda.current_device()] if device.type == "cuda" else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=devices)
        accumulated = micro_batches(cfg, comm.get_world_size())
        self._trainer = TrainStep(model, optimizer, device.type, autocast_dtype(cfg), accumulated)
        self._trainer.stop_wanted = lambda: bool(self._stop)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer: Checkpointer = build_checkpointer(cfg, unwrap(model))
        self.register_hooks(self.build_hooks())

    # The parts of a run

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Segmenter:
        """The segmenter that MODEL.META_ARCHITECTURE names, on MODEL.DEVICE.

        Raises:
            UserError: there is no such meta-architecture, it is no `Segmenter`, or TEST.QUERY_PROBE cannot use it.
        """
        find_segmenter(cfg)
        model = checked_segmenter(build_model(cfg))
        check_probe(cfg, model)
        counts = "%s: %s parameters, %s of them trained."
        logger.info(counts, type(model).__name__, *map("{:,}".format, parameter_counts(model)), extra=IN_LOG_ONLY)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of SOLVER.OPTIMIZER with its parameter groups and clipping."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """The schedule of SOLVER.LR_SCHEDULER_NAME."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """This rank's endless batches.

        `train` tells a `TrainLoader` where to start; any other loader starts at its own beginning.

        Override it with `return build_train_loader(cfg, mapper=MyMapper(cfg))` of adet_iuq.data for a mapper of your own.
        """
        return build_train_loader(cfg, images_per_batch=find_segmenter(cfg).images_per_batch(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """This rank's share of a test set, as batches."""
        return WatchedLoader(build_test_loader(cfg, dataset_name), dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a test set; it writes to OUTPUT_DIR/inference/<name of the set>."""
        return build_evaluator(cfg, dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name))

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict[str, Any]:
        """Evaluates on all of `evaluated_sets`; see DefaultTrainer. Random states are the same afterwards."""
        if evaluators is None:
            register_datasets(cfg)  # an evaluator reads the metadata of its set
            evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
        with state.preserved_random_state(), display().prints_kept(logger):
            results = evaluate_all(super().test, cfg, unwrap(model), evaluators)
        if comm.is_main_process():
            report_results(results, evaluated_sets(cfg), cfg.OUTPUT_DIR)
            logger.info(results_line(results))
        return results

    def build_hooks(self) -> list[HookBase]:
        """The timer, the schedule, the guards, the checkpoints, the evaluation and the writers, in this order."""
        cfg = self.cfg

        def evaluate() -> dict[str, Any]:
            with evaluation_with_signals(self, self._stop, self._trainer.stop_agreed):
                self.last_results = self.test(cfg, self.model)
            return self.last_results

        result = [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            CollapseGuard(cfg.GUARD.COLLAPSE_ITERS, unwrap(self.model)),
            # It stands before the evaluation, so that the weights are safe if that fails.
            CheckpointHook(cfg.SOLVER.CHECKPOINT_PERIOD),
        ]
        if cfg.DATASETS.TEST:
            result.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, evaluate))
            metric = cfg.SOLVER.BEST_CHECKPOINT.METRIC
            if metric and comm.is_main_process():
                names = evaluated_sets(cfg)
                result.append(BestCheckpointHook(cfg.TEST.EVAL_PERIOD, self.checkpointer, metric, names))
        return result

    @property
    def write_period(self) -> int:
        """The number of iterations between two lines of the log; short runs get more lines."""
        return int(min(20, max(1, self.max_iter // 20)))

    # The run itself

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues the run in OUTPUT_DIR, or loads the weights of MODEL.WEIGHTS into a new one.

        Args:
            resume: whether to continue if OUTPUT_DIR has a checkpoint.

        Raises:
            UserError: the file is missing, damaged or made for another model.
        """
        found = self.checkpointer.load_last() if resume else None
        if found is not None:
            state.restore_run(self, found)
            self.start_iter = self.iter + 1
            logger.info("Resuming at iteration %d of %d.", self.start_iter, self.max_iter)
            return
        if resume:
            logger.warning("--resume: %s holds no checkpoint, so this run starts at 0.", self.cfg.OUTPUT_DIR)
        self.checkpointer.load(self.cfg.MODEL.WEIGHTS)

    def train(self) -> dict[str, Any]:
        """Trains from `start_iter` to `max_iter`.

        A signal (`interruption.SIGNALS`, which include Ctrl-C) to any process, or a log file that cannot be written,
        stops all processes after the current step, with a checkpoint of it.

        Returns:
            The results of the last evaluation, on the main process; empty if there is no test set.

        Raises:
            UserError: a loss is not finite, an image cannot be read, a file cannot be written, or a data worker died.
            TrainingInterrupted: a signal stopped the run, and everything is saved.
        """
        loader = self.build_train_loader(self.cfg)
        put_at_start(loader, self.cfg, self.data_seed, self.start_iter)
        self._trainer.data_loader = loader
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            writers = self._start_writers()
            try:
                with handled(self._stop.signalled):
                    self._run_steps()
            except BaseException as error:
                # after_train is not called: it would evaluate, and a failed run has nothing to evaluate. If a resumed
                # run continues from here, its metrics may not contain a line that an unbroken run would not write.
                is_continued = self._trainer.stop_agreed or isinstance(error, TrainingInterrupted)
                (metrics.close_writers if is_continued else metrics.write_and_close)(writers)
                explained = loader.board.explain(error) if isinstance(loader, TrainLoader) else None
                if explained is None:
                    raise
                raise explained from error
            finally:
                self._trainer.data_loader = loader  # drops the loader's iterator, which ends the workers
                display().close()
            self.iter = max(self.max_iter, self.start_iter)
            with ending_with_signals():
                self._stop.end_run_if_signalled("after the last iteration, before its evaluation")
                self.after_train()
        if self._stop.is_error:
            raise UserError(self._stop.reason)
        return self.last_results

    def _run_steps(self) -> None:
        self.before_train()
        if "random_states" in self._resume_state:
            state.restore_random_states(self._resume_state["random_states"])
        for iteration in range(self.start_iter, self.max_iter):
            self.iter = iteration
            self.before_step()
            self.run_step()
            self.after_step()
            if self._trainer.stop_agreed:
                save_and_stop(self, self._stop)

    def _start_writers(self) -> list[EventWriter]:
        """Opens the log files (main process only). A resumed run also gets the recent values of the run before."""
        metrics.restore_history(self.storage, self._resume_state.get("history", {}))
        if not comm.is_main_process():
            return []
        step = self._trainer
        logger.info(introduction(self.cfg, unwrap(self.model), step.data_loader, step.micro_batches, self.start_iter))
        write_description(self.cfg)
        resumed = self.start_iter > 0
        last_written = metrics.trim_metrics(self.cfg.OUTPUT_DIR, self.start_iter) if resumed else -1
        if not resumed:
            metrics.set_metrics_aside(self.cfg.OUTPUT_DIR)
        writers = metrics.build_writers(
            self.cfg.OUTPUT_DIR, self.max_iter, self.start_iter, last_written, on_failure=self._stop.failed
        )
        due = self.start_iter % self.write_period == 0 or self.start_iter >= self.max_iter
        if resumed and due and last_written < self.start_iter - 1:
            # The run was killed between the checkpoint of that iteration and its line in the log.
            self.storage.iter = self.start_iter - 1
            for writer in writers:
                writer.write()
        period = self.write_period
        self.register_hooks([hooks.PeriodicWriter(writers, period=period), ProgressDisplay(period)])
        if self.cfg.REPORT.ENABLED:
            self.register_hooks([ReportHook(self.cfg, self._trainer.data_loader, period)])
        return writers

    def run_step(self) -> None:
        """Runs one iteration."""
        self._trainer.iter = self.iter
        self._trainer.run_step()

    # Checkpoints

    def save_checkpoint(self, name: str) -> None:
        """Writes OUTPUT_DIR/<name>.pth. Every rank calls it, because the state is gathered; the main process writes.

        Raises:
            UserError: the file cannot be written.
        """
        self.checkpointer.write(name, state.run_state(self))
        self.saved_iter = self.iter

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs besides the weights; every rank calls it, as `save_checkpoint` does."""
        return state.trainer_state(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned. Random states and history are applied when the training starts.

        Raises:
            UserError: the state does not fit this run.
        """
        self._resume_state = state.restore_trainer_state(self, state_dict)
