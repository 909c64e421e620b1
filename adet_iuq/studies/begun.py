"""What a run's OUTPUT_DIR was begun with, so that it is never continued, nor recorded, as another run.

Trainings start with --resume. Without this check, one whose arm has changed in the study's file would go on under the new
overrides.
"""

import json
from pathlib import Path

from adet_iuq.errors import UserError
from adet_iuq.files import replace_file
from adet_iuq.studies.record import RESULTS_FILE
from adet_iuq.studies.study import Run

OVERRIDES_FILE = "overrides.json"


def note_overrides(folder: Path, run: Run) -> None:
    """Notes the overrides of a run in its OUTPUT_DIR, before it is started or continued.

    Raises:
        UserError: the note cannot be written.
    """
    content = json.dumps(list(run.overrides)) + "\n"
    replace_file(folder / OVERRIDES_FILE, lambda file: file.write(content.encode()))


def check_overrides(folder: Path, run: Run) -> None:
    """Checks that a training in `folder`, if it has come anywhere, has the overrides of `run`.

    Before its first checkpoint a training starts anew. A folder without a note was made by hand, and is taken as it is.

    Raises:
        UserError: the study's file has changed since.
    """
    note = folder / OVERRIDES_FILE
    advanced = (folder / "last_checkpoint").is_file() or (folder / RESULTS_FILE).is_file()
    if not (note.is_file() and advanced):
        return
    begun = json.loads(note.read_text())
    if begun != list(run.overrides):
        raise UserError(
            f"{folder} was begun with other overrides ({' '.join(begun)}) than the study's file names today "
            f"({' '.join(run.overrides)}). Give the arm another name, choose another folder with --output, or delete that "
            "folder, and the run starts anew."
        )


def is_begun(folder: Path) -> bool:
    """Whether a training has left anything in `folder`."""
    return folder.is_dir() and any(path.name != OVERRIDES_FILE for path in folder.iterdir())
