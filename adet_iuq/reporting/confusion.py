"""The confusion matrix: which classes were mistaken for which."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util
from scipy.optimize import linear_sum_assignment

from adet_iuq.reporting.matching import IOU, Matches

BACKGROUND = -1  # stands for an object that nothing found, and for a detection without an object
OTHERS = -2  # stands for all classes that have no row of their own


@dataclass(frozen=True)
class Confusion:
    """Counts by (class of the object, class of the detection); either may be `BACKGROUND`."""

    counts: Counter[tuple[int, int]]

    def table(self, classes: list[int]) -> tuple[list[int], list[list[int]]]:
        """The keys of rows and columns, and the counts in their order: given classes, `OTHERS` if needed, `BACKGROUND`."""
        shown = set(classes)
        merged: Counter[tuple[int, int]] = Counter()
        for pair, count in self.counts.items():
            truth, taken = (one if one in shown or one == BACKGROUND else OTHERS for one in pair)
            merged[truth, taken] += count
        others = [OTHERS] if any(OTHERS in pair for pair in merged) else []
        keys = [*classes, *others, BACKGROUND]
        return keys, [[merged[truth, taken] for taken in keys] for truth in keys]

    def mistaken(self, most: int) -> list[tuple[int, int, int]]:
        """The most frequent mistakes between two classes: (object, detection, count)."""
        pairs = [(*pair, count) for pair, count in self.counts.items() if BACKGROUND not in pair and pair[0] != pair[1]]
        return sorted(pairs, key=lambda one: (-one[2], one[0], one[1]))[:most]


def confusion(matches: Matches, threshold: float) -> Confusion:
    """The confusion at a threshold on the score.

    First come the pairs of one class, as in the metrics, so that the diagonal holds the hits of the F1 curve. The other
    objects and detections of an image are then paired across classes if their IoU reaches 0.5. (supervision's matrix
    pairs in one go, by IoU alone, and decodes all masks of an image.)
    """
    shown = matches.counted & (matches.scores >= threshold)
    hit = shown & matches.hit
    counts = Counter((int(one), int(one)) for one in matches.category[hit])
    found = np.zeros(len(matches.object_image), dtype=bool)
    found[matches.match[hit]] = True
    detections, objects = _by_image(matches.image, shown & ~hit), _by_image(matches.object_image, _open(matches, found))
    for image in detections.keys() | objects.keys():
        mine, theirs = detections[image], objects[image]
        for taken, truth in _pairs(matches, mine, theirs):
            counts[int(matches.object_category[truth]), int(matches.category[taken])] += 1
            mine.remove(taken)
            theirs.remove(truth)
        counts.update((BACKGROUND, int(matches.category[one])) for one in mine)
        counts.update((int(matches.object_category[one]), BACKGROUND) for one in theirs)
    return Confusion(counts)


def _open(matches: Matches, found: np.ndarray) -> np.ndarray:
    return matches.object_counted & ~found


def _by_image(image: np.ndarray, chosen: np.ndarray) -> dict[int, list[int]]:
    """The positions of the chosen ones, by image."""
    result: dict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero(chosen).tolist():
        result[int(image[place])].append(place)
    return result


def _pairs(matches: Matches, detections: list[int], objects: list[int]) -> list[tuple[int, int]]:
    """Pairs (detection, object) with an IoU of at least `IOU`, each in one pair at most, with the largest sum of IoUs."""
    if not detections or not objects:
        return []
    shapes = [matches.shapes[one] for one in detections], [matches.object_shapes[one] for one in objects]
    ious = np.asarray(mask_util.iou(*shapes, [0] * len(objects)))
    ious = np.where(ious >= IOU, ious, 0.0)
    rows, columns = linear_sum_assignment(ious, maximize=True)
    return [(detections[r], objects[c]) for r, c in zip(rows, columns, strict=True) if ious[r, c] > 0]
