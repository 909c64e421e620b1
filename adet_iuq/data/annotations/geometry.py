"""Area, box and outline of annotations, settled by their masks; drawn only where the numbers leave a doubt."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from adet_iuq.data.annotations.image_entries import relative_path
from adet_iuq.data.annotations.outlines import cut, measure, pixels
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.annotations.segmentation import compressed, is_valid_box, mask_area

Entry = dict[str, Any]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1

_THIN = 1.5  # pixels of mean width; a strip as thin may miss the centre of every pixel
_SMALL = 16.0  # square pixels, of an outline four pixels wide
_OUTSIDE = 1.0  # pixels by which a box may leave the image; COCO's own do by rounding
_FAR = 0.1  # of the longer side: farther outside a polygon is cut
_TOLERANCE = 0.1  # of the mask's area by which `area` may differ, beside a pixel along its outline
_FITS = 0.5  # least IoU of an annotation's box with its mask's


@dataclass(slots=True)
class Draft:
    """An annotation on its way through the pass.

    Attributes:
        source: as the file has it.
        image: its image, with `height` and `width`.
        changes: what will differ from the source.
        segmentation: valid polygon parts, or an RLE without a problem.
        area: of the mask, in square pixels; of the outline where nothing speaks for a difference.
        slack: by how much `area` of the file may differ from it.
        bounds: around the segmentation.
    """

    source: Entry
    image: Entry
    changes: dict[str, Any]
    segmentation: Any
    area: float = 0.0
    slack: float = 0.0
    bounds: Box = (0.0, 0.0, 0.0, 0.0)

    def entry(self) -> Entry:
        """The annotation in canonical form; the source itself if nothing of it changes."""
        if self.segmentation is not self.source.get("segmentation"):
            self.changes["segmentation"] = self.segmentation
        return {**self.source, **self.changes} if self.changes else self.source

    @property
    def where(self) -> str:
        """The annotation in words."""
        return f"annotation {self.source.get('id')} of {relative_path(self.image)}"


def settle_geometry(drafts: list[Draft], report: Report) -> list[Draft]:
    """Measures the drafts; returns those that cover something, with changes of `segmentation`, `area` and `bbox`."""
    polygons = [draft for draft in drafts if isinstance(draft.segmentation, list)]
    _measure_masks([draft for draft in drafts if isinstance(draft.segmentation, dict)])
    if polygons:
        _measure_polygons(polygons, report)
    kept = []
    for draft in drafts:
        if draft.area > 0:
            _settle_area(draft, report)
            _settle_box(draft, report)
            kept.append(draft)
        else:
            advice = (
                "It covers no pixel of its image; the annotation is left out, in training and evaluation alike. If there is "
                "an object, draw its outline anew."
            )
            report.add("mask without area", f"{draft.where}: {str(draft.source.get('segmentation'))[:60]}", advice)
    return kept


def _measure_masks(drafts: list[Draft]) -> None:
    if not drafts:
        return
    for draft in drafts:
        draft.segmentation = compressed(draft.segmentation, draft.image["height"], draft.image["width"])
        draft.area = mask_area(draft.segmentation)
    boxes = mask_util.toBbox([draft.segmentation for draft in drafts])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).tolist()
    for draft, bounds in zip(drafts, corners, strict=True):
        draft.bounds = tuple(bounds)


def _measure_polygons(drafts: list[Draft], report: Report) -> None:
    """Shoelace areas, and those of the drawn masks where these may differ: `area` of the file does, an outline is thin or
    small, or reaches outside."""
    found = measure([draft.segmentation for draft in drafts])
    given = np.array([_area_of(draft.source) for draft in drafts])
    size = np.array([(draft.image["width"], draft.image["height"]) for draft in drafts], dtype=np.float64)
    outside = np.maximum(-found.bounds[:, :2], found.bounds[:, 2:] - size).max(axis=1)
    far = outside > np.maximum(_FAR * size.max(axis=1), 10 * _OUTSIDE)
    slack = _TOLERANCE * found.area + found.perimeter
    doubtful = ~(np.abs(given - found.area) <= slack) | (outside > _OUTSIDE)
    doubtful |= (found.area < _SMALL) | (2 * found.area < _THIN * found.perimeter)
    columns = (found.area, slack, found.bounds, doubtful, far)
    for draft, area, margin, bounds, doubt, beyond in zip(drafts, *(c.tolist() for c in columns), strict=True):
        draft.area, draft.slack, draft.bounds = area, margin, tuple(bounds)
        if beyond:
            _cut(draft, report)
        if doubt and draft.segmentation:
            draft.area = pixels(draft.segmentation, draft.image["height"], draft.image["width"])


def _cut(draft: Draft, report: Report) -> None:
    """Cuts a polygon a little outside its image, before anything allocates by the length of its outline."""
    height, width = draft.image["height"], draft.image["width"]
    draft.segmentation = cut(draft.segmentation, height, width, max(_FAR * max(height, width), 10 * _OUTSIDE))
    if not draft.segmentation:
        draft.area = 0.0
        return
    example = (
        f"{draft.where}: x {draft.bounds[0]:g} to {draft.bounds[2]:g}, y {draft.bounds[1]:g} to {draft.bounds[3]:g}"
    )
    advice = "The outline is cut at the image; look for a lost decimal point, or for the outline of another image."
    report.add("coordinates far outside the image", f"{example} in {width} x {height}", advice)
    after = measure([draft.segmentation])
    draft.slack = float(_TOLERANCE * after.area[0] + after.perimeter[0])
    draft.bounds = tuple(after.bounds[0].tolist())


def _area_of(annotation: Entry) -> float:
    """`area` of the file if that is a finite number, else nan."""
    area = annotation.get("area")
    return float(area) if isinstance(area, int | float) and abs(area) < 1e300 else math.nan


def _settle_area(draft: Draft, report: Report) -> None:
    given = _area_of(draft.source)
    crowd = draft.changes.get("iscrowd", draft.source.get("iscrowd")) == 1  # ignored at any size; COCO's own are rough
    if given > 0 and (crowd or abs(given - draft.area) <= max(draft.slack, _TOLERANCE * draft.area)):
        return
    draft.changes["area"] = float(draft.area)
    if draft.source.get("area") is not None:
        kind = "area far from the mask's" if given > 0 else "area that is no positive number"
        example = f"{draft.where}: {draft.source['area']!r}, the mask has {draft.area:g}"
        report.add(kind, example, "It is taken from the mask; APs, APm and APl go by it.")


def _settle_box(draft: Draft, report: Report) -> None:
    """Keeps a box that fits its mask, cut at the border; takes any other from the segmentation."""
    box: Any = draft.source.get("bbox")
    height, width = draft.image["height"], draft.image["width"]
    own = _inside(draft.bounds, width, height)
    if not is_valid_box(box):
        report.add("no valid box", f"{draft.where}: {box}", "It is taken from the segmentation.")
        draft.changes["bbox"] = _xywh(own)
        return
    x, y, w, h = box
    given: Box = (x, y, x + w, y + h)
    outside = min(x, y) < -_OUTSIDE or given[2] > width + _OUTSIDE or given[3] > height + _OUTSIDE
    if outside:
        given = _inside(given, width, height)
    fits = _iou(given, own) >= _FITS
    if not fits or outside:
        draft.changes["bbox"] = _xywh(given if fits else own)
    if outside:
        advice = (
            "It is cut at the border; one that misses its mask or is wholly outside is taken from the segmentation."
        )
        report.add("box outside the image", f"{draft.where}: {box} in {width} x {height}", advice)
    elif not fits:
        advice = "It is taken from the segmentation. COCO's boxes are x, y, width, height in pixels."
        report.add("box far from its mask", f"{draft.where}: {box}, the mask's is {_xywh(own)}", advice)


def _inside(box: Box, width: float, height: float) -> Box:
    """A box cut at the image's border; it has no area if it lies outside."""
    x0, y0 = min(max(box[0], 0), width), min(max(box[1], 0), height)
    return x0, y0, max(min(box[2], width), x0), max(min(box[3], height), y0)


def _xywh(box: Box) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _iou(one: Box, other: Box) -> float:
    w, h = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    if w <= 0 or h <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(w * h / (sum(areas) - w * h))
