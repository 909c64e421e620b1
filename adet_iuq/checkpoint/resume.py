"""From which checkpoint a run goes on: the last one, or, if a disk has spoiled it, the latest sound one before it."""

import logging
import os
import re
from pathlib import Path

from detectron2.utils import comm

from adet_iuq.checkpoint.files import DamagedCheckpointError, read_checkpoint
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"model_(\d+)\.pth")


def checkpoint_to_resume(last: Path) -> Path:
    """The file to resume from; every rank calls it, the main process decides for all.

    Falling back costs some iterations, which are trained again to the same result; standing still would cost a requeued
    job the night. A warning says which file is spoiled and which one serves.

    Args:
        last: what `last_checkpoint` names.

    Raises:
        UserError: neither it nor an earlier one can be read, or another machine does not see it; on every rank.
    """
    verdict: tuple[str, str] = ("", "")
    if comm.is_main_process():
        try:
            verdict = (str(_first_sound(last)), "")
        except UserError as error:
            verdict = ("", str(error))
    chosen, problem = comm.all_gather(verdict)[0]
    if problem:
        raise UserError(problem)
    blind = [rank for rank, seen in enumerate(comm.all_gather(os.path.isfile(chosen))) if not seen]
    if blind:
        raise UserError(
            f"Checkpoint {chosen}, from which the run goes on, is not there for rank {', '.join(map(str, blind))}. "
            "OUTPUT_DIR must be the same folder for all processes, on a disk that all machines see."
        )
    return Path(chosen)


def _first_sound(last: Path) -> Path:
    problems = []
    for path in [last, *_earlier(last)]:
        try:
            read_checkpoint(str(path))
        except DamagedCheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            logger.warning(
                "THE LAST CHECKPOINT IS DAMAGED. %s The run goes on from the latest sound one instead, %s, and repeats what "
                "came after it.",
                problems[0],
                path,
            )
        return path
    raise UserError(
        f"{problems[0]} No earlier checkpoint in {last.parent} is sound either ({len(problems) - 1} tried). Start anew, "
        "without --resume."
    )


def _earlier(last: Path) -> list[Path]:
    """The checkpoints of the same run from before `last`, latest first; those after it belong to another run."""
    number = _NUMBERED.fullmatch(last.name)
    found = [(int(match[1]), path) for path in last.parent.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
    return [path for value, path in sorted(found, reverse=True) if number is None or value < int(number[1])]
