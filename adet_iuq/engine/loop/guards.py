"""Guards: one stops the run at a loss that is not finite, one warns when the masks have collapsed.

A third one, in contention.py, watches the machine.
"""

import logging
import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from adet_iuq.engine.loop.contention import contention_guards
from adet_iuq.errors import UserError
from adet_iuq.modeling import Segmenter

logger = logging.getLogger(__name__)

_FIRE_RATES = ("iuq/fire_rate", "iuq/own_fire_rate", "iuq/equi_fire_rate")


def build_guards(cfg: CfgNode, model: Segmenter) -> list[HookBase]:
    """The hooks that warn: of collapsed masks, and of other programs that take the cores of a run on the CPU."""
    return [CollapseGuard(cfg.GUARD.COLLAPSE_ITERS, model), *contention_guards(cfg.MODEL.DEVICE)]


class NonFiniteLossError(UserError):
    """A loss became infinite or not a number."""


def stop_on_nonfinite(
    means: dict[str, float], local: dict[str, float], batch: list[dict[str, Any]], iteration: int
) -> None:
    """Raises on every rank at once if a term is not finite on any of them.

    Args:
        means: the terms averaged over all ranks, the same on every rank. An average with a non-finite part is
            non-finite too, so all ranks come to the same verdict without another exchange.
        local: this rank's terms.
        batch: this rank's inputs.
        iteration: the iteration of the training.

    Raises:
        NonFiniteLossError: a term is not finite; it names term, value, rank and the image files of that rank's batch.
    """
    if all(map(math.isfinite, means.values())):
        return
    bad = [f"{name} = {value}" for name, value in local.items() if not math.isfinite(value)]
    files = [str(inputs.get("file_name", inputs.get("image_id", "?"))) for inputs in batch]
    reports = comm.all_gather((comm.get_rank(), bad, files))
    found = "; ".join(
        f"{', '.join(terms)} on rank {rank}, with the images {', '.join(names)}"
        for rank, terms, names in reports
        if terms
    )
    raise NonFiniteLossError(
        f"A loss is not finite at iteration {iteration}: {found or means}. The weights were not updated in this step. "
        "If the images are fine, lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS, switch on "
        "SOLVER.CLIP_GRADIENTS.ENABLED, or leave out mixed precision (SOLVER.AMP.ENABLED False); then go on from the "
        "last checkpoint with --resume."
    )


class CollapseGuard(HookBase):
    """Warns, once per episode, when the mask loss and the firing rates show that the model no longer predicts masks.

    It looks for empty masks, to which a strong inter-scene loss leads (masks that cover everything are not its
    subject). The masks count as empty if the mask loss of the step is that of empty masks, and if all rates in which an
    IUQ model logs where its queries fire are zero. Without any evidence about firing (a base model, or before
    MODEL.IUQ.INTER.START_ITER) it does not warn.

    Args:
        patience: the number of such steps in a row; 0 switches the guard off.
        model: declares which loss shows it, and from which value on (`mask_loss_name`, `_ceiling`, `_collapsed`).
    """

    def __init__(self, patience: int, model: Segmenter) -> None:
        self.patience, self.name = patience, model.mask_loss_name
        self.threshold = model.mask_loss_collapsed * model.mask_loss_ceiling
        self._steps = 0

    def after_step(self) -> None:
        """Counts this step if the masks look collapsed in it."""
        if self.patience <= 0:
            return
        self._steps = self._steps + 1 if self._collapsed() else 0
        if self._steps == self.patience:
            logger.warning(
                "The masks have collapsed: for %d steps %s has been at least %.3g, as without any mask, and no query has "
                "fired on any pixel. It rarely recovers. Lower MODEL.IUQ.INTER.WEIGHT, raise MODEL.IUQ.INTER.RAMP_SHARE "
                "or MODEL.IUQ.INTER.START_SHARE (RAMP_ITERS or START_ITER if these are set), or lower SOLVER.BASE_LR, and "
                "start again from an earlier checkpoint.",
                self.patience,
                self.name,
                self.threshold,
            )

    def _collapsed(self) -> bool:
        now = self.trainer.storage.iter
        latest = {name: value for name, (value, when) in self.trainer.storage.latest().items() if when == now}
        if latest.get(self.name, 0.0) < self.threshold:
            return False
        # Before the inter-scene term starts there are no valid pairs. Masks that are empty then are not trained yet, so
        # there is no warning.
        evidence = latest.get("iuq/num_valid_pairs", float("iuq/equi_fire_rate" in latest)) > 0
        return evidence and all(latest.get(name, 0.0) == 0.0 for name in _FIRE_RATES)
