"""Chooses the checkpoint from which a run continues: the last one or, if that is damaged, the latest sound one before."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from adet_iuq.checkpoint.files import DamagedCheckpointError, read_checkpoint
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"model_(\d+)\.pth")


@dataclass(frozen=True)
class Checkpoint:
    """A sound file and its content.

    Attributes:
        path: the path of the file.
        content: the result of `read_checkpoint`.
    """

    path: Path
    content: dict[str, Any]


def read_checkpoint_to_resume(last: Path) -> Checkpoint:
    """The checkpoint to resume from. Every rank calls it; the main process decides, and each rank reads one file.

    An earlier checkpoint costs some iterations, which are repeated with the same result; stopping would cost a requeued
    job the whole night. A warning names the damaged file and the one that is used.

    Args:
        last: the path that `last_checkpoint` names.

    Raises:
        UserError: neither this checkpoint nor an earlier one can be read, or another machine does not see it. Every
            rank raises it.
    """
    found: Checkpoint | None = None
    problem = ""
    if comm.is_main_process():
        try:
            found = _first_sound(last)
        except UserError as error:
            problem = str(error)
    # The main process keeps the content that it has read; only the name is sent to the others.
    chosen, problem = comm.all_gather(("" if found is None else str(found.path), problem))[0]
    if problem:
        raise UserError(problem)
    blind = [rank for rank, seen in enumerate(comm.all_gather(os.path.isfile(chosen))) if not seen]
    if blind:
        raise UserError(
            f"Checkpoint {chosen}, from which the run goes on, is not there for rank {', '.join(map(str, blind))}. "
            "OUTPUT_DIR must be the same folder for all processes, on a disk that all machines see."
        )
    return found or Checkpoint(Path(chosen), read_checkpoint(chosen))


def _first_sound(last: Path) -> Checkpoint:
    problems = []
    for path in [last, *_earlier(last)]:
        try:
            content = read_checkpoint(str(path))
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
        return Checkpoint(path, content)
    raise UserError(
        f"{problems[0]} No earlier checkpoint in {last.parent} is sound either ({len(problems) - 1} tried). Start anew, "
        "without --resume."
    )


def _earlier(last: Path) -> list[Path]:
    """The same run's checkpoints before `last`, latest first. Checkpoints after it belong to another run."""
    number = _NUMBERED.fullmatch(last.name)
    found = [(int(match[1]), path) for path in last.parent.iterdir() if (match := _NUMBERED.fullmatch(path.name))]
    return [path for value, path in sorted(found, reverse=True) if number is None or value < int(number[1])]
