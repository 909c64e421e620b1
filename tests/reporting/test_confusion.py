import copy
from collections import Counter

from adet_iuq.reporting.confusion import BACKGROUND, OTHERS, Confusion, confusion
from adet_iuq.reporting.matching import match
from adet_iuq.reporting.scores import curve
from adet_iuq.reporting.tables import confusion_table
from helpers.report_run import DETECTIONS, DOG, OBJECTS, Entry, detection, source, square, truth


def confused(objects: list[Entry], detections: list[Entry], threshold: float) -> Confusion:
    return confusion(match(truth(copy.deepcopy(objects)), copy.deepcopy(detections), source()), threshold)


def test_known_matrix() -> None:
    """Class 0 is the cat, class 1 the dog."""
    counts = confused(OBJECTS, DETECTIONS, 0.45).counts
    assert counts == {
        (0, 0): 1,  # found
        (0, 1): 1,  # taken for a dog
        (BACKGROUND, 0): 2,  # the second detection of the cat, and the one where nothing is
        (1, BACKGROUND): 1,
        (0, BACKGROUND): 1,
    }
    assert confused(OBJECTS, DETECTIONS, 0.85).counts == {(0, 0): 1, (0, BACKGROUND): 2, (1, BACKGROUND): 1}


def test_a_hit_goes_before_a_more_certain_mistake() -> None:
    """The diagonal holds what the curves count as hits."""
    counts = confused([square(0, 0)], [detection(0, 0, 0.9, category=DOG), detection(1, 0, 0.5)], 0.1).counts
    assert counts == {(0, 0): 1, (BACKGROUND, 1): 1}


def test_an_object_that_a_detection_below_the_threshold_found_is_open() -> None:
    counts = confused([square(0, 0)], [detection(0, 0, 0.9, category=DOG), detection(1, 0, 0.5)], 0.6).counts
    assert counts == {(0, 1): 1}


def test_sums_agree_with_the_curve() -> None:
    matches = match(truth(copy.deepcopy(OBJECTS)), copy.deepcopy(DETECTIONS), source())
    overall = curve(matches)
    counts = confusion(matches, 0.0).counts
    hits = sum(count for (truth_, taken), count in counts.items() if truth_ == taken)
    assert hits == overall.recall[-1] * overall.objects
    assert sum(count for (truth_, _), count in counts.items() if truth_ != BACKGROUND) == overall.objects
    assert sum(count for (_, taken), count in counts.items() if taken != BACKGROUND) == matches.counted.sum()


def test_classes_without_a_row_share_one() -> None:
    found = Confusion(Counter({(0, 0): 3, (1, 2): 4, (2, BACKGROUND): 5, (0, 2): 1, (BACKGROUND, 1): 7}))
    keys, table = found.table([0])
    assert keys == [0, OTHERS, BACKGROUND]
    assert table == [[3, 1, 0], [0, 4, 5], [0, 7, 0]]
    assert found.mistaken(1) == [(1, 2, 4)] and found.mistaken(9) == [(1, 2, 4), (0, 2, 1)]


def test_cells_are_shares_of_their_row() -> None:
    table = confusion_table(Confusion(Counter({(0, 0): 3, (0, BACKGROUND): 1, (1, 1): 2})), [0, 1], ["cat", "dog"])
    assert table.columns == ["cat", "dog", "background"]
    cells = [[(cell.count, cell.share, cell.right) for cell in row] for _, row in table.rows]
    assert cells[0] == [(3, 0.75, True), (0, 0, False), (1, 0.25, False)]
    assert cells[2] == [(0, 0, False)] * 3
