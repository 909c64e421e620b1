"""Precision, recall and F1 by score threshold, and how good the results of each image are at the best threshold."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adet_iuq.reporting.matching import Matches

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Precision and recall for each different score as the threshold, from the highest on.

    Attributes:
        thresholds: (T,) falling; detections with at least this score count.
        precision: (T,) from 0 to 1.
        recall: (T,) from 0 to 1.
        objects: the number of objects that should be found.
    """

    thresholds: Values
    precision: Values
    recall: Values
    objects: int

    @property
    def f1(self) -> Values:
        """(T,) the harmonic mean of both; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / np.where(total > 0, total, 1)

    @property
    def best(self) -> int | None:
        """The position of the highest F1 (of several, that with the highest threshold); None if nothing was found."""
        f1 = self.f1
        return int(f1.argmax()) if len(f1) and f1.max() > 0 else None


def curve(matches: Matches, category: int | None = None) -> Curve:
    """The curve of one class, or of all detections and objects together."""
    counted, objects = matches.counted, matches.object_counted
    if category is not None:
        counted, objects = counted & (matches.category == category), objects & (matches.object_category == category)
    number = int(objects.sum())
    order = np.argsort(-matches.scores[counted], kind="stable")
    scores, hits = matches.scores[counted][order], np.cumsum(matches.hit[counted][order])
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # detections of one score share a threshold
    return Curve(scores[ends], hits[ends] / (ends + 1), hits[ends] / max(number, 1), number)


def frequent_classes(matches: Matches, most: int) -> list[int]:
    """The classes with most objects, in falling order; classes without objects are left out."""
    counts = np.bincount(matches.object_category[matches.object_counted], minlength=len(matches.names))
    return [int(category) for category in np.argsort(-counts, kind="stable")[:most] if counts[category]]


@dataclass(frozen=True)
class ImageScores:
    """The numbers of found objects (`right`), of detections without object (`wrong`) and of `missed` objects, (N,) each."""

    right: npt.NDArray[np.int64]
    wrong: npt.NDArray[np.int64]
    missed: npt.NDArray[np.int64]

    @property
    def f1(self) -> Values:
        """(N,) 2 * right / (2 * right + wrong + missed); 1 if there is nothing to find and nothing was detected."""
        total = 2 * self.right + self.wrong + self.missed
        return np.where(total > 0, 2 * self.right / np.maximum(total, 1), 1.0)

    def worst(self, most: int) -> list[int]:
        """The positions of the images with the lowest F1, and among equals most mistakes; none without a mistake."""
        mistakes = self.wrong + self.missed
        order = np.lexsort((-mistakes, self.f1))
        return [int(place) for place in order[:most] if mistakes[place]]


def image_scores(matches: Matches, threshold: float) -> ImageScores:
    """The counts at a threshold on the score."""
    shown, size = matches.counted & (matches.scores >= threshold), len(matches.images)
    right = np.bincount(matches.image[shown & matches.hit], minlength=size)
    wrong = np.bincount(matches.image[shown & ~matches.hit], minlength=size)
    objects = np.bincount(matches.object_image[matches.object_counted], minlength=size)
    return ImageScores(right, wrong, objects - right)
