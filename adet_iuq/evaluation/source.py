"""The note beside an evaluation's predictions that says what they were measured against."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adet_iuq.errors import UserError
from adet_iuq.files import replace_file

SOURCE_FILE = "evaluation.json"


@dataclass(frozen=True)
class Source:
    """The ground truth of a data set's evaluation, and how detections count.

    Attributes:
        ground_truth: the JSON file that the metrics were computed with, absolute, or a file of the same folder.
        image_root: the folder of the images, absolute.
        task: "segm" if masks were evaluated, otherwise "bbox".
        rules: "coco", or "lvis", by which a class counts only on images that are labelled for it.
        predictions: the name of the file in the same folder with the predictions, in COCO's results format.
        max_detections: the number of detections that count in an image, per class ("coco") or together ("lvis").
    """

    ground_truth: str
    image_root: str
    task: str
    rules: str
    predictions: str
    max_detections: int


def write_source(folder: str, source: Source) -> None:
    """Writes the note to `folder`, which holds the predictions.

    Raises:
        UserError: it cannot be written.
    """
    truth, root = os.path.abspath(source.ground_truth), os.path.abspath(source.image_root)
    if os.path.dirname(truth) == os.path.abspath(folder):
        truth = os.path.basename(truth)  # this name stays valid if the folder is moved
    text = json.dumps(dataclasses.asdict(dataclasses.replace(source, ground_truth=truth, image_root=root)), indent=2)
    replace_file(Path(folder) / SOURCE_FILE, lambda file: file.write(f"{text}\n".encode()))


def read_source(folder: Path) -> Source:
    """The note that `write_source` wrote, with absolute paths.

    Raises:
        UserError: there is no note, or it is damaged.
    """
    path = folder / SOURCE_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        source = Source(**content)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: this evaluation left no note of its ground truth.") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}). Evaluate once more.") from error
    return dataclasses.replace(source, ground_truth=str(folder.absolute() / source.ground_truth))
