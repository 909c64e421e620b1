"""Predictions of many images in one COCO-format JSON file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import supervision as sv

from adet_iuq.files import replace_file
from adet_iuq.inference.parts import Size


class CocoFile:
    """`images`, `annotations` (with `score`, run-length encoded masks, `track_id` of a tracked object) and `categories`.

    Args:
        class_names: the names of the classes in the order of their indices.
        category_ids: the training set's own number of each class, if it has any.
    """

    def __init__(self, class_names: Sequence[str], category_ids: Mapping[int, int]) -> None:
        self._category_ids = category_ids
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [{"id": self._category(index), "name": name} for index, name in enumerate(class_names)]

    def add(self, number: int, file_name: str, size: Size, detections: sv.Detections, **more: object) -> None:
        """Takes in one image.

        Args:
            number: the id of the image.
            file_name: the image's file as it was given.
            size: the size of the image.
            detections: the detections, with boxes XYXY in pixels; masks as an array or in supervision's form, or no masks.
            more: further entries of the image, such as the `frame` of a video.
        """
        self.images.append({"id": number, "file_name": file_name, "height": size[0], "width": size[1], **more})
        assert detections.class_id is not None and detections.confidence is not None
        boxes = np.concatenate([detections.xyxy[:, :2], detections.xyxy[:, 2:] - detections.xyxy[:, :2]], axis=1)
        for index, (box, label, score) in enumerate(
            zip(boxes.tolist(), detections.class_id.tolist(), detections.confidence.tolist(), strict=True)
        ):
            entry = {
                "id": len(self.annotations) + 1,
                "image_id": number,
                "category_id": self._category(label),
                "bbox": box,
                "score": score,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            if detections.mask is not None:
                entry |= _mask_entry(detections.mask[index])
            if detections.tracker_id is not None:
                entry["track_id"] = int(detections.tracker_id[index])
            self.annotations.append(entry)

    def write(self, path: Path) -> None:
        """Writes the file, either completely or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        replace_file(path, lambda file: file.write(json.dumps(content).encode()))

    def _category(self, index: int) -> int:
        return self._category_ids.get(index, index)


def _mask_entry(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The segmentation and the area of an (H, W) mask."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    text = {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return {"segmentation": text, "area": int(mask_util.area(rle))}
