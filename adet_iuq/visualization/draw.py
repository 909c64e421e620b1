"""Draws instances on an image, with the supervision library.

Images are (H, W, 3) uint8 in BGR, as in OpenCV; boxes are XYXY in pixels of the image.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv

Image = npt.NDArray[np.uint8]

_LEAST_SIDE = 320  # pixels; smaller images are enlarged by a whole factor, so that labels can be read
_PLAIN_SIDE = 1000  # pixels; on larger images lines and letters grow with the image
_GAP = 8  # pixels between two pictures


@dataclass
class Drawing:
    """The K instances to draw.

    Attributes:
        boxes: (K, 4) float.
        masks: (K, H, W) bool, or K masks in supervision's form; None: only boxes are drawn.
        classes: (K,) int.
        labels: K texts.
        colours: K colours as "#rrggbb"; None: each instance has its own colour.
        tracks: (K,) int, by which objects keep their colour from frame to frame; None: colours follow the position.
    """

    boxes: npt.NDArray[np.floating]
    masks: npt.NDArray[np.bool_] | sv.CompactMask | None
    classes: npt.NDArray[np.integer]
    labels: list[str]
    colours: list[str] | None = None
    tracks: npt.NDArray[np.integer] | None = None


def draw(image: Image, drawing: Drawing) -> Image:
    """A copy of the image, enlarged if it is small, with every instance in a colour of its own."""
    factor = max(1, -(-_LEAST_SIDE // min(image.shape[:2])))
    canvas = np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1))
    if not len(drawing.boxes):
        return canvas
    masks = drawing.masks
    if masks is not None and factor > 1:
        masks = np.asarray(masks, dtype=np.bool_).repeat(factor, 1).repeat(factor, 2)
    detections = sv.Detections(
        xyxy=np.asarray(drawing.boxes, dtype=np.float32) * factor,
        mask=masks,
        class_id=np.asarray(drawing.classes),
        tracker_id=drawing.tracks,
    )
    palette = sv.ColorPalette.DEFAULT if drawing.colours is None else sv.ColorPalette.from_hex(drawing.colours)
    by = sv.ColorLookup.INDEX if drawing.tracks is None else sv.ColorLookup.TRACK
    look: dict[str, Any] = {"color": palette, "color_lookup": by}
    scale = max(1.0, min(canvas.shape[:2]) / _PLAIN_SIDE)
    line = round(scale)
    if masks is not None:
        canvas = sv.MaskAnnotator(opacity=0.45, **look).annotate(canvas, detections)
        canvas = sv.PolygonAnnotator(thickness=line, **look).annotate(canvas, detections)
    else:
        canvas = sv.BoxAnnotator(thickness=line, **look).annotate(canvas, detections)
    labels = sv.LabelAnnotator(text_scale=0.35 * scale, text_thickness=line, text_padding=round(2 * scale), **look)
    return np.asarray(labels.annotate(canvas, detections, labels=drawing.labels))


def side_by_side(pictures: dict[str, Image]) -> Image:
    """Puts pictures of one height side by side, each under its title."""
    columns = []
    for title, picture in pictures.items():
        header = np.full((24, picture.shape[1], 3), 255, dtype=np.uint8)
        cv2.putText(header, title, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.concatenate([header, picture]))
        columns.append(np.full((len(columns[-1]), _GAP, 3), 255, dtype=np.uint8))
    return np.concatenate(columns[:-1], axis=1)
