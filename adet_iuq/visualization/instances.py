"""Turns predictions and annotations into drawings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import supervision as sv
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances

from adet_iuq.data.loading.mapper import transformed_mask
from adet_iuq.visualization.draw import Drawing


def of_predictions(instances: Instances, class_names: Sequence[str], score_threshold: float) -> Drawing:
    """The predictions of one image, at its size, with a score of at least the threshold; labels name class and score."""
    kept = instances.to("cpu")
    kept = kept[kept.scores >= score_threshold]
    classes = kept.pred_classes.numpy()
    return Drawing(
        boxes=kept.pred_boxes.tensor.numpy(),
        masks=kept.pred_masks.numpy().astype(bool) if kept.has("pred_masks") else None,
        classes=classes,
        labels=[
            f"{class_name(class_names, c)} {score:.0%}" for c, score in zip(classes, kept.scores.tolist(), strict=True)
        ],
    )


def of_detections(detections: sv.Detections) -> Drawing:
    """supervision's detections with `class_name` in their data; labels name track (if there is one), class and score."""
    assert detections.class_id is not None and detections.confidence is not None
    names, tracks = detections.data["class_name"], detections.tracker_id
    marks = [""] * len(detections) if tracks is None else [f"#{track} " for track in tracks]
    return Drawing(
        boxes=np.asarray(detections.xyxy, dtype=np.float32),
        masks=detections.mask,
        classes=detections.class_id,
        labels=[
            f"{mark}{name} {score:.0%}" for mark, name, score in zip(marks, names, detections.confidence, strict=True)
        ],
        tracks=tracks,
    )


def of_record(record: dict[str, Any], class_names: Sequence[str]) -> Drawing:
    """The annotations of a data set's record (detectron2's format) that have a usable mask; crowds are left out."""
    size = (record["height"], record["width"])
    boxes, masks, classes = [], [], []
    for annotation in record.get("annotations", []):
        mask = transformed_mask(annotation.get("segmentation"), T.TransformList([]), record, size)
        if mask is None or annotation.get("iscrowd", 0):
            continue
        boxes.append(BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS))
        masks.append(mask.astype(bool))
        classes.append(int(annotation["category_id"]))
    return Drawing(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        masks=np.stack(masks) if masks else np.zeros((0, *size), dtype=bool),
        classes=np.array(classes, dtype=np.int64),
        labels=[class_name(class_names, c) for c in classes],
    )


def class_name(names: Sequence[str], index: int) -> str:
    """The name of a class, or its number if names are not known."""
    return names[index] if index < len(names) else f"class {index}"
