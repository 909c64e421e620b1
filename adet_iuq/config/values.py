"""Refuses values of detectron2's keys that would end a run with a traceback, when the config is read."""

from detectron2.config import CfgNode

from adet_iuq.config.yaml_files import leaves
from adet_iuq.errors import UserError

_LEAST = {"SOLVER.MAX_ITER": 1, "DATALOADER.NUM_WORKERS": 0}
_ENTRIES: dict[str, type] = {
    "DATASETS.TRAIN": str,
    "DATASETS.TEST": str,
    "INPUT.MIN_SIZE_TRAIN": int,
    "SOLVER.STEPS": int,
}


def check_values(cfg: CfgNode) -> None:
    """Checks numbers that have a smallest value, and lists whose entries have one type.

    Raises:
        UserError: a value is not allowed.
    """
    values = dict(leaves(cfg))
    for key, least in _LEAST.items():
        if values[key] < least:
            raise UserError(f"{key} is {values[key]}; it must be {least} or more.")
    for key, wanted in _ENTRIES.items():
        value = values[key]
        entries = value if isinstance(value, tuple | list) else [value]
        wrong = [entry for entry in entries if not isinstance(entry, wanted) or isinstance(entry, bool)]
        if wrong:
            what = "words in quotes" if wanted is str else "whole numbers"
            raise UserError(f"{key} is {value!r}; its entries must be {what}, and {wrong[0]!r} is none.")
