"""Writes the report of a training: the label grid at the start, and the page after every evaluation."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from adet_iuq.errors import UserError
from adet_iuq.reporting.facts import write_facts
from adet_iuq.reporting.label_grid import write_label_grid
from adet_iuq.reporting.process import REPORT_FILE, ReportProcess

logger = logging.getLogger(__name__)


class ReportHook(HookBase):
    """A hook for the main process only, to be placed after the hook that writes metrics.json.

    Args:
        cfg: the config, of which REPORT.LABEL_GRID and OUTPUT_DIR are read.
        loader: the training loader, which knows where it starts; None: there is no label grid.
        period: the number of iterations between two lines of metrics.json. An evaluation's numbers are in the line after it.
    """

    def __init__(self, cfg: CfgNode, loader: Iterable[Any] | None, period: int) -> None:
        self.cfg, self.period = cfg, period
        self.process = ReportProcess(cfg.OUTPUT_DIR)
        self._loader = loader
        self._reported: dict[str, Any] = {}

    def before_train(self) -> None:
        """Writes what is run; a new run also gets its label grid."""
        note_facts(self.cfg)
        if self._loader is not None and self.cfg.REPORT.LABEL_GRID > 0 and self.trainer.start_iter == 0:
            write_label_grid(self._loader, self.cfg)
        self._loader = None
        self._reported = self.trainer.last_results

    def after_step(self) -> None:
        """Starts a report if there was an evaluation, unless one is still being written. No step waits for it."""
        is_writing = self.process.is_writing()
        due = self.trainer.last_results is not self._reported and (self.trainer.iter + 1) % self.period == 0
        if due and not is_writing:
            self._reported = self.trainer.last_results
            self.process.start(beside=True)

    def after_train(self) -> None:
        """Writes the last report, completely, before the run ends."""
        finish_report(self.process)


def report_evaluation(cfg: CfgNode) -> None:
    """Writes the report of an evaluation outside of a training. Every rank may call it; the main process writes."""
    if cfg.REPORT.ENABLED and comm.is_main_process():
        note_facts(cfg)
        finish_report(ReportProcess(cfg.OUTPUT_DIR))


def finish_report(process: ReportProcess) -> None:
    """Writes a report and waits for it, when there is nothing else to do."""
    process.start(beside=False)
    if process.finish():
        logger.info("Report: %s", Path(process.folder) / REPORT_FILE)


def note_facts(cfg: CfgNode) -> None:
    """Writes OUTPUT_DIR/report.json, and warns if that fails."""
    device = torch.device(cfg.MODEL.DEVICE)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    try:
        write_facts(cfg.OUTPUT_DIR, cfg.dump(), name, comm.get_world_size())
    except (UserError, OSError) as error:
        logger.warning("The report will lack what was run: %s", error)
