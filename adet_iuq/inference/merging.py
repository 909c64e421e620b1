"""Merges the detections of several tiles, one per object: non-maximum suppression by masks, class by class.

There are three measures for three cases, because none is right for all:

* Two detections that are whole in their tiles are the same object if their masks agree, by intersection over union.
  Intersection over the smaller mask would remove a small object that lies on a large one.
* A detection that its tile's border cuts is a fragment. If most of it lies in an object that another tile has seen whole,
  the whole one stays, whatever the scores: the measure is intersection over the fragment. Their union says nothing, as
  the fragment may be a sliver.
* Two fragments of an object larger than the overlap agree if they agree where both tiles look: the measure is intersection
  over union within that region. They are united, because each has what the other lacks.

Detections of the same look are not compared, because the segmenter has its own suppression. So a picture of one tile
gives the same result as without tiles.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from adet_iuq.inference.parts import Crop, Part, Window

THRESHOLD = 0.5


def merged(parts: Sequence[Part], threshold: float = THRESHOLD) -> list[Part]:
    """The distinct objects, best score first.

    Args:
        parts: the detections in all windows of one picture; those without masks are compared by their boxes.
        threshold: the value above which two detections are the same; the module's text explains the measures.
    """
    ordered = sorted(parts, key=lambda part: (part.cut, -part.score))
    boxes = np.array([_place(part) for part in ordered], dtype=np.int64).reshape(-1, 4)
    labels = np.array([part.label for part in ordered])
    groups: dict[int, list[int]] = {}  # by the number of their first part, which leads the group
    group_of: dict[int, int] = {}
    for number, part in enumerate(ordered):
        near = _touching(boxes[:number], boxes[number]) & (labels[:number] == part.label)
        rivals = [other for other in np.flatnonzero(near).tolist() if ordered[other].window != part.window]
        rivals = [other for other in rivals if other in group_of]
        if any(_is_same(part, ordered[other], threshold) for other in rivals if not ordered[other].cut):
            continue
        fragments = [other for other in rivals if part.cut and ordered[other].cut]
        same = {group_of[other] for other in fragments if _agreement(part, ordered[other]) > threshold}
        lead = min(same, default=number)
        for group in sorted({*same, number}):  # the part may connect several groups
            members = groups.pop(group, [number])
            groups.setdefault(lead, []).extend(members)
            group_of.update(dict.fromkeys(members, lead))
    return sorted((_united([ordered[one] for one in group]) for group in groups.values()), key=lambda part: -part.score)


def _place(part: Part) -> Window:
    """The pixels that the part's mask covers; those of its box if it has no mask."""
    if part.place is not None:
        return part.place
    low, high = np.floor(part.box[:2]), np.ceil(part.box[2:])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _touching(boxes: npt.NDArray[np.int64], box: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of the (N, 4) boxes share pixels with one box."""
    return np.asarray(((boxes[:, :2] < box[2:]) & (box[:2] < boxes[:, 2:])).all(axis=1), dtype=np.bool_)


def _is_same(part: Part, whole: Part, threshold: float) -> bool:
    """Whether a part is a fragment of a whole one, or the same object."""
    shared = _intersection(part, whole, None)
    own, other = _area(part, None), _area(whole, None)
    return bool(shared > threshold * (own if part.cut else own + other - shared))


def _agreement(first: Part, second: Part) -> float:
    """Intersection over union within the windows of both."""
    common = _common(first.window, second.window)
    shared = _intersection(first, second, common)
    return shared / max(_area(first, common) + _area(second, common) - shared, 1)


def _intersection(first: Part, second: Part, within: Window | None) -> int:
    """The number of pixels that both have, within a window (None: anywhere)."""
    shared = _common(_place(first), _place(second))
    shared = shared if within is None else _common(shared, within)
    return int((_pixels(first, shared) & _pixels(second, shared)).sum())


def _area(part: Part, within: Window | None) -> int:
    place = _place(part)
    return int(_pixels(part, place if within is None else _common(place, within)).sum())


def _pixels(part: Part, window: Window) -> Crop:
    """(h, w) bool: the part's pixels in a window inside its place. Without a mask its box is full."""
    x0, y0, x1, y1 = window
    if part.mask is None:
        return np.ones((y1 - y0, x1 - x0), dtype=bool)
    left, top = _place(part)[:2]
    return part.mask[y0 - top : y1 - top, x0 - left : x1 - left]


def _common(first: Window, second: Window) -> Window:
    """The pixels that two windows share; if they share none, a window without pixels inside the first one."""
    x0, y0 = max(first[0], second[0]), max(first[1], second[1])
    x1, y1 = min(first[2], second[2]), min(first[3], second[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (first[0], first[1], first[0], first[1])


def _united(group: Sequence[Part]) -> Part:
    """One part that unites all fragments: it has the first one's class and score, and the pixels of all."""
    lead = group[0]
    if len(group) == 1:
        return lead
    boxes = np.stack([part.box for part in group])
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    places = np.array([_place(part) for part in group])
    x0, y0 = (int(value) for value in places[:, :2].min(axis=0))
    x1, y1 = (int(value) for value in places[:, 2:].max(axis=0))
    if lead.mask is None:
        return Part(lead.label, lead.score, box, None, None, lead.window, cut=True)
    mask = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    for part, (left, top, right, bottom) in zip(group, places, strict=True):
        mask[top - y0 : bottom - y0, left - x0 : right - x0] |= part.mask
    return Part(lead.label, lead.score, box, (x0, y0, x1, y1), mask, lead.window, cut=True)
