import copy

import numpy as np
import pytest

from adet_iuq.reporting.matching import match
from adet_iuq.reporting.scores import ImageScores, curve, frequent_classes, image_scores
from helpers.report_run import DETECTIONS, DOG, OBJECTS, Entry, detection, source, square, truth


def matched(objects: list[Entry], detections: list[Entry], images: int = 2):  # type: ignore[no-untyped-def]
    return match(truth(copy.deepcopy(objects), images), copy.deepcopy(detections), source())


def test_known_curve() -> None:
    """Hits and misses by falling score: 0.9 hit, 0.8 and 0.6 and 0.5 and 0.4 misses, 0.7 does not count; four objects."""
    found = curve(matched(OBJECTS, DETECTIONS))
    assert found.thresholds.tolist() == [0.9, 0.8, 0.6, 0.5, 0.4] and found.objects == 4
    assert found.precision == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert found.recall == pytest.approx([1 / 4] * 5)
    assert found.f1 == pytest.approx([2 / 5, 2 / 6, 2 / 7, 2 / 8, 2 / 9])
    assert found.best == 0


def test_the_best_threshold_weighs_both() -> None:
    objects = [square(0, 0), square(20, 0), square(40, 0)]
    detections = [detection(0, 0, 0.9), detection(0, 20, 0.8), detection(20, 0, 0.7), detection(20, 20, 0.2)]
    found = curve(matched(objects, detections))
    assert found.best == 2 and found.f1[2] == pytest.approx(2 * 2 / (3 + 3))


def test_detections_of_one_score_share_a_threshold() -> None:
    found = curve(matched([square(0, 0)], [detection(30, 0, 0.5), detection(0, 0, 0.5), detection(30, 20, 0.4)]))
    assert found.thresholds.tolist() == [0.5, 0.4]
    assert found.precision == pytest.approx([1 / 2, 1 / 3]) and found.recall.tolist() == [1, 1]


def test_curve_of_a_class() -> None:
    matches = matched(OBJECTS, DETECTIONS)
    dogs = curve(matches, 1)
    assert dogs.thresholds.tolist() == [0.8] and dogs.objects == 1 and dogs.best is None


def test_nothing_detected_or_nothing_to_find() -> None:
    nothing = curve(matched(OBJECTS, []))
    assert nothing.best is None and nothing.f1.shape == (0,) and nothing.objects == 4
    alone = curve(matched([], DETECTIONS))
    assert alone.best is None and alone.recall.max() == 0


def test_classes_with_most_objects() -> None:
    matches = matched(
        [square(0, 0, category=DOG), square(20, 0, category=DOG), square(40, 0), square(0, 20, iscrowd=1)], []
    )
    assert frequent_classes(matches, 5) == [1, 0] and frequent_classes(matches, 1) == [1]
    assert frequent_classes(matched([square(0, 0)], []), 5) == [0]


def test_known_scores_of_images() -> None:
    matches = matched(OBJECTS, DETECTIONS, images=3)
    scores = image_scores(matches, 0.6)
    assert (scores.right.tolist(), scores.wrong.tolist(), scores.missed.tolist()) == ([1, 0, 0], [2, 0, 0], [1, 2, 0])
    assert scores.f1 == pytest.approx([2 / 5, 0, 1])
    assert scores.worst(16) == [1, 0] and scores.worst(1) == [1]


def test_of_equally_bad_images_the_one_with_most_mistakes_is_the_worst() -> None:
    zeros = np.zeros(3, dtype=np.int64)
    assert ImageScores(zeros, np.array([0, 1, 4]), np.array([1, 1, 0])).worst(16) == [2, 1, 0]
