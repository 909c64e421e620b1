"""One test set's part of a report: tables, curves, confusion matrix, and the images with the worst results."""

from pathlib import Path

import orjson

from adet_iuq.data.annotations.parsing import no_garbage_collection
from adet_iuq.errors import UserError
from adet_iuq.evaluation.source import Source, read_source
from adet_iuq.reporting.confusion import confusion
from adet_iuq.reporting.figures import f1_figure, precision_recall_figure
from adet_iuq.reporting.matching import Matches, match
from adet_iuq.reporting.page import SetPart
from adet_iuq.reporting.pictures import worst_images
from adet_iuq.reporting.scores import curve, frequent_classes, image_scores
from adet_iuq.reporting.tables import confusion_table, result_tables

_CURVES = 5  # number of classes with a curve of their own
_MATRIX = 20  # number of classes with a row of their own
_MISTAKES = 10  # number of pairs of classes that are listed
_STAND_IN = 0.5  # the threshold that is used if none is better than another

Results = dict[str, dict[str, dict[str, float | None]]]


def set_part(folder: Path, name: str, results: Results, *, worst: int, deep_images: str, most_bytes: int) -> SetPart:
    """The tables, diagrams and pictures of one test set; its notes say what is missing.

    Args:
        folder: the folder of the run.
        name: the name of the data set.
        results: the results of all data sets.
        worst: the largest number of pictures, which show the worst images.
        deep_images: INPUT.DEEP_IMAGES.
        most_bytes: the largest number of bytes of the pictures together.
    """
    part = SetPart(name, *result_tables(results[name]))
    place = folder / "inference" / name
    try:
        source = read_source(place)
        matches = read_matches(place, source)
    except (UserError, OSError, KeyError, orjson.JSONDecodeError) as error:
        part.notes.append(f"No curves, confusion matrix and pictures: {_reason(error)}")
        return part
    if matches is None:
        part.notes.append(
            f"{source.ground_truth} has no annotations to compare with. The predictions, for the evaluation server, are in "
            f"{place / source.predictions}."
        )
        return part
    _add_comparison(part, matches, source, worst, deep_images, most_bytes)
    return part


def _add_comparison(
    part: SetPart, matches: Matches, source: Source, worst: int, deep_images: str, most_bytes: int
) -> None:
    """Adds everything that is computed from predictions and ground truth together."""
    overall = curve(matches)
    part.what = "masks" if source.task == "segm" else "boxes"
    part.images, part.objects = len(matches.images), overall.objects
    if not len(overall.thresholds):
        part.notes.append("The model detected nothing." if not len(matches.scores) else "No detection counts.")
    if overall.best is None:
        threshold = _STAND_IN
        part.notes.append(f"No detection found an object, so there is no best threshold; {threshold} stands in for it.")
    else:
        threshold = float(overall.thresholds[overall.best])
        part.best = {
            "threshold": threshold,
            "F1": float(overall.f1[overall.best]),
            "precision": float(overall.precision[overall.best]),
            "recall": float(overall.recall[overall.best]),
        }
    part.threshold = threshold
    classes = frequent_classes(matches, _CURVES) if len(matches.names) > 1 else []
    named = [("all classes", overall), *((matches.names[one], curve(matches, one)) for one in classes)]
    named = [(name, one) for name, one in named if len(one.thresholds) and one.objects]
    if named:
        part.diagrams = [
            ("Precision and recall", precision_recall_figure(named)),
            ("F1 and the threshold on the score", f1_figure(named)),
        ]
    table = confusion(matches, threshold)
    part.confusion = confusion_table(table, frequent_classes(matches, _MATRIX), matches.names)
    part.mistakes = [(matches.names[a], matches.names[b], n) for a, b, n in table.mistaken(_MISTAKES)]
    scores = image_scores(matches, threshold)
    part.asked = len(scores.worst(worst))
    part.worst = worst_images(
        matches, scores, threshold, source.image_root, deep_images=deep_images, most=worst, most_bytes=most_bytes
    )


def read_matches(folder: Path, source: Source) -> Matches | None:
    """The predictions and ground truth of one evaluation; None if the data set has no annotations.

    Args:
        folder: the folder with the evaluation's files.
        source: the evaluation's note about itself.

    Raises:
        UserError: a file is missing.
    """
    for path, what in ((Path(source.ground_truth), "ground truth"), (folder / source.predictions, "predictions")):
        if not path.is_file():
            raise UserError(f"the {what}, {path}, is not there any more.")
    with no_garbage_collection():
        content = orjson.loads(Path(source.ground_truth).read_bytes())
        if not content.get("annotations"):
            return None
        return match(content, orjson.loads((folder / source.predictions).read_bytes()), source)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
