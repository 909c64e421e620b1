"""What a run's OUTPUT_DIR was begun with, so that it is never continued, nor recorded, as another run.

Trainings start with --resume. Without this check, one whose arm has changed in the study's file would go on under the new
overrides.
"""

import json
from pathlib import Path
from typing import Any

from adet_iuq.errors import UserError
from adet_iuq.files import replace_file
from adet_iuq.studies.study import Run, Study

NOTE_FILE = "begun.json"


def begin(folder: Path, study: Study, run: Run, revision: str) -> None:
    """Notes in a run's OUTPUT_DIR what it is begun with, before it is started for the first time.

    Raises:
        UserError: it was begun with something else, or the note cannot be written.
    """
    check_begun(folder, study, run, revision)
    if not (folder / NOTE_FILE).is_file():
        content = json.dumps(_note(study, run, revision), indent=1) + "\n"
        replace_file(folder / NOTE_FILE, lambda file: file.write(content.encode()))


def check_begun(folder: Path, study: Study, run: Run, revision: str) -> None:
    """Checks that a run's OUTPUT_DIR was begun as the study's file and code have the run today.

    A folder without a note, whose training was started by hand, is taken as it is.

    Raises:
        UserError: it was begun with another config, other overrides or another revision; or the note is broken.
    """
    path, now = folder / NOTE_FILE, _note(study, run, revision)
    if not path.is_file():
        return
    try:
        begun = json.loads(path.read_text())
        different = [key for key, value in now.items() if begun[key] != value]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {error!r}. Delete {folder} to start the run anew.") from error
    if different:
        changes = "; ".join(f"{key} {_words(begun[key])}, now {_words(now[key])}" for key in different)
        raise UserError(
            f"{folder} was begun with another study file or code: {changes}. Give the arm another name, choose another "
            "folder with --output, or delete that folder to start the run anew."
        )


def is_begun(folder: Path) -> bool:
    """Whether a training has left anything in `folder`."""
    return folder.is_dir() and any(path.name != NOTE_FILE for path in folder.iterdir())


def _note(study: Study, run: Run, revision: str) -> dict[str, Any]:
    return {
        "config": study.config.name,
        "projects": [project.name for project in study.projects],
        "overrides": list(run.overrides),
        "revision": revision,
    }


def _words(value: Any) -> str:
    return value if isinstance(value, str) else f"({' '.join(value)})"
