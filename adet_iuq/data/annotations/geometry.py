"""Corrects area, box and outline of annotations by their masks, which are drawn only if the numbers leave a doubt."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

from adet_iuq.data.annotations.image_entries import relative_path
from adet_iuq.data.annotations.outlines import cut, drawn, measure
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.segmentation import OUTSIDE, compressed, is_valid_box, mask_area
from adet_iuq.data.annotations.sides import Sides

Entry = dict[str, Any]
Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

WRITTEN_AT = "adet_iuq_written_at"  # a key of converted annotations: the file and line in the user's own files

_FAR = 0.1  # share of the longer side; a polygon that reaches farther outside, and farther than _NEAR pixels, is cut
_NEAR = 10.0
_TOLERANCE = 0.1  # share of the mask's area that `area` may differ by, besides a pixel along its outline
_NEAR_SIDE = 2.0  # pixels by which each side of a box may miss its mask's; COCO's miss it by a hundredth
_NEAR_SHARE = 0.05  # the same as a share of the mask's width or height, if that is more
_MOSTLY_SEEN = 1 / 3  # lowest IoU of an outline's bounds with its mask's; in 7000 annotations of COCO it is 0.5
_CROWD_FITS = 0.5  # lowest IoU of a crowd's box with its mask's: crowds are ignored anyway, and COCO's are rough
_HUGE = 1e100  # products of larger numbers overflow
_NO_BOX = (math.nan,) * 4


@dataclass(slots=True)
class Draft:
    """An annotation during the pass.

    Attributes:
        source: the entry in the file.
        image: the annotation's image, with `height` and `width`.
        changes: the values that will differ from the source.
        segmentation: valid polygon parts, or an RLE without a problem; later it may be cut or compressed.
    """

    source: Entry
    image: Entry
    changes: dict[str, Any]
    segmentation: Any

    def entry(self) -> Entry:
        """The annotation in canonical form; the source itself if nothing changes."""
        if self.segmentation is not self.source.get("segmentation"):
            self.changes["segmentation"] = self.segmentation
        return {**self.source, **self.changes} if self.changes else self.source

    @property
    def where(self) -> str:
        """The annotation's name for messages."""
        return where(self.source, self.image)

    @property
    def is_crowd(self) -> bool:
        """Whether it counts as a crowd."""
        return bool(self.changes.get("iscrowd", self.source.get("iscrowd")) == 1)


def where(entry: Entry, image: Entry | None) -> str:
    """The name of an annotation for messages: its id and its image's file, or the place where people wrote it."""
    if WRITTEN_AT in entry:
        return str(entry[WRITTEN_AT])
    return f"annotation {entry.get('id')} of {relative_path(image) if image else 'no listed image'}"


@dataclass
class _Measures:
    """The measures of N drafts: those of their masks and those in the file, in pixels.

    Attributes:
        area: (N,) the area of the mask, or of the outline if nothing suggests that they differ; 0: it covers nothing.
        slack: (N,) the amount by which the file's `area` may differ from it.
        bounds: (N, 4) x0, y0, x1, y1 around the mask, or around the outline if nothing suggests that they differ.
        given_area: (N,) the file's `area`; nan if it is no number.
        given_box: (N, 4) x0, y0, x1, y1 of the file's `bbox`; nan if it is not valid.
        size: (N, 2) width and height of the image.
        cut: (N,) bool, whether the segmentation was cut.
    """

    area: Array
    slack: Array
    bounds: Array
    given_area: Array
    given_box: Array
    size: Array
    cut: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, drafts: list[Draft]) -> "_Measures":
        """The measures in the file; the masks are not measured yet."""
        number = len(drafts)
        boxes = np.array([_box_of(draft.source) for draft in drafts], dtype=np.float64)
        boxes = np.clip(boxes, -_HUGE, _HUGE)
        boxes[:, 2:] += boxes[:, :2]
        areas = np.array([_area_of(draft.source) for draft in drafts], dtype=np.float64)
        size = np.array([(draft.image["width"], draft.image["height"]) for draft in drafts], dtype=np.float64)
        return cls(
            np.zeros(number), np.zeros(number), np.zeros((number, 4)), areas, boxes, size, np.zeros(number, dtype=bool)
        )


def settle_geometry(drafts: list[Draft], report: Report, sides: Sides) -> list[Draft]:
    """Measures the drafts; returns those that cover something, with changes of `segmentation`, `area` and `bbox`.

    Args:
        drafts: any number of drafts.
        report: collects the findings.
        sides: collects what polygons show about the sides of their images.
    """
    if not drafts:
        return []
    measures = _Measures.of(drafts)
    is_polygon = np.array([isinstance(draft.segmentation, list) for draft in drafts])
    _measure_polygons(drafts, np.flatnonzero(is_polygon), measures, report, sides)
    _measure_masks(drafts, np.flatnonzero(~is_polygon), measures)
    empty = measures.area <= 0
    for index in np.flatnonzero(empty):
        draft = drafts[index]
        advice = (
            "It covers no pixel of its image; the annotation is left out, in training and evaluation alike. If there is an "
            "object, draw its outline again."
        )
        report.add("mask without area", f"{draft.where}: {str(draft.source.get('segmentation'))[:60]}", advice)
    far_off = ~(np.abs(measures.given_area - measures.area) <= np.maximum(measures.slack, _TOLERANCE * measures.area))
    for index in np.flatnonzero(far_off & ~empty):
        _settle_area(drafts[index], float(measures.area[index]), float(measures.given_area[index]), report)
    _settle_boxes(drafts, ~empty, measures, report)
    return [draft for draft, nothing in zip(drafts, empty.tolist(), strict=True) if not nothing]


def _measure_masks(drafts: list[Draft], indices: Indices, measures: _Measures) -> None:
    for index in indices:
        draft = drafts[index]
        draft.segmentation = compressed(draft.segmentation, draft.image["height"], draft.image["width"])
        measures.area[index] = mask_area(draft.segmentation)
    if len(indices):
        boxes = mask_util.toBbox([drafts[index].segmentation for index in indices])
        measures.bounds[indices] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _measure_polygons(drafts: list[Draft], indices: Indices, measures: _Measures, report: Report, sides: Sides) -> None:
    """Measures the outlines, and draws the masks of those whose area may differ.

    It may differ if the file's `area` does, or if a part is thin, small or partly outside. The bounds are those of the mask
    if an outline is outside or mostly encloses nothing.
    """
    if not len(indices):
        return
    found = measure([drafts[index].segmentation for index in indices])
    size = measures.size[indices]
    sides.see_outlines([drafts[index].image for index in indices], found.bounds, size)
    outside = np.maximum(-found.bounds[:, :2], found.bounds[:, 2:] - size).max(axis=1)
    slack = _TOLERANCE * found.area + found.perimeter
    doubtful = ~(np.abs(measures.given_area[indices] - found.area) <= slack) | (outside > OUTSIDE)
    doubtful |= found.doubtful
    measures.area[indices], measures.slack[indices], measures.bounds[indices] = found.area, slack, found.bounds
    for index in indices[outside > np.maximum(_FAR * size.max(axis=1), _NEAR)]:
        _cut(drafts[index], int(index), measures, report)
    visible = measures.bounds.copy()
    for index in indices[doubtful]:
        draft = drafts[index]
        area, bounds = 0, [0.0] * 4
        if draft.segmentation:
            area, bounds = drawn(draft.segmentation, draft.image["height"], draft.image["width"])
        measures.area[index], visible[index] = area, bounds
    # Tips of thin outlines cover no pixel, but COCO's boxes include them. So boxes are compared with outlines here.
    astray = _iou(visible, measures.bounds) < _MOSTLY_SEEN
    astray[indices] |= outside > OUTSIDE
    measures.bounds = np.where(astray[:, None], visible, measures.bounds)


def _cut(draft: Draft, index: int, measures: _Measures, report: Report) -> None:
    """Cuts a polygon a little outside of its image, before anything allocates memory for the length of its outline."""
    height, width = draft.image["height"], draft.image["width"]
    draft.segmentation = cut(draft.segmentation, height, width, max(_FAR * max(height, width), _NEAR))
    if not draft.segmentation:
        return
    x0, y0, x1, y1 = measures.bounds[index]
    example = f"{draft.where}: x {x0:g} to {x1:g}, y {y0:g} to {y1:g} in {width} x {height}"
    advice = "Outline and box are cut at the image; look for a lost decimal point, or for the outline of another image."
    report.add("coordinates far outside the image", example, advice)
    after = measure([draft.segmentation])
    measures.slack[index], measures.cut[index] = _TOLERANCE * after.area[0] + after.perimeter[0], True


def _area_of(annotation: Entry) -> float:
    """The file's `area` if it is a finite number, otherwise nan."""
    area = annotation.get("area")
    return area if isinstance(area, int | float) and abs(area) < _HUGE else math.nan


def _box_of(annotation: Entry) -> Any:
    """The file's `bbox`, if it is valid."""
    box = annotation.get("bbox")
    return box if is_valid_box(box) else _NO_BOX


def _settle_area(draft: Draft, area: float, given: float, report: Report) -> None:
    """Replaces an area that differs from the mask's. A crowd's stays: it is ignored at any size, and COCO's are rough."""
    if given > 0 and draft.is_crowd:
        return
    draft.changes["area"] = area
    if draft.source.get("area") is not None:
        kind = "area far from the mask's" if given > 0 else "area that is no positive number"
        example = f"{draft.where}: {repr(draft.source['area'])[:20]}, the mask has {area:g}"
        report.add(kind, example, "It is taken from the mask; APs, APm and APl go by it.")


def _settle_boxes(drafts: list[Draft], wanted: npt.NDArray[np.bool_], measures: _Measures, report: Report) -> None:
    """Keeps boxes that fit their masks, cut at the border; every other box is computed from the segmentation."""
    size, given = measures.size, measures.given_box
    own = _inside(measures.bounds, size)
    valid = ~np.isnan(given[:, 0])
    outside = valid & (np.maximum(-given[:, :2], given[:, 2:] - size).max(axis=1) > OUTSIDE)
    as_corners = np.concatenate([given[:, :2], given[:, 2:] - given[:, :2]], axis=1)
    given = np.where(outside[:, None], _inside(given, size), given)
    crowd = np.array([draft.is_crowd for draft in drafts], dtype=bool)
    fits = valid & (_near(given, own) | (crowd & (_iou(given, own) >= _CROWD_FITS))) & ~measures.cut
    corners = valid & ~fits & _near(as_corners, own)
    for index in np.flatnonzero(wanted & (~fits | outside)):
        draft, (width, height) = drafts[index], size[index]
        x0, y0, x1, y1 = (given if fits[index] else own)[index].tolist()
        box = draft.changes["bbox"] = [x0, y0, x1 - x0, y1 - y0]
        example = f"{draft.where}: {draft.source.get('bbox')}"
        if measures.cut[index]:
            continue
        if not valid[index]:
            report.add("no valid box", example, "It is taken from the segmentation.")
        elif outside[index] and not corners[index]:
            advice = (
                "It is cut at the border; one that misses its mask or is wholly outside is taken from the segmentation."
            )
            report.add("box outside the image", f"{example} in {width:g} x {height:g}", advice)
        else:
            advice = "It is taken from the segmentation. COCO's boxes are x, y, width, height in pixels."
            meant = "; it looks like x1, y1, x2, y2" if corners[index] else ""
            report.add("box far from its mask", f"{example}, the mask's is {box}{meant}", advice)


def _inside(boxes: Array, size: Array) -> Array:
    """Boxes (N, 4) cut at the borders of images (N, 2); a box that lies outside has no area."""
    return np.clip(boxes, 0, np.tile(size, (1, 2)))


def _near(ones: Array, others: Array) -> npt.NDArray[np.bool_]:
    """(N,) whether all sides of boxes (N, 4) are near those of the others, pair by pair; False if a side is nan."""
    allowed = np.maximum(_NEAR_SIDE, _NEAR_SHARE * np.tile(others[:, 2:] - others[:, :2], (1, 2)))
    near: npt.NDArray[np.bool_] = np.all(np.abs(ones - others) <= allowed, axis=1)
    return near


def _iou(ones: Array, others: Array) -> Array:
    """(N,) intersection over union of boxes (N, 4), pair by pair; 0 if a box is nan or has no area."""
    sides = np.minimum(ones[:, 2:], others[:, 2:]) - np.maximum(ones[:, :2], others[:, :2])
    common = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    areas = sum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (ones, others))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(common / (areas - common))
