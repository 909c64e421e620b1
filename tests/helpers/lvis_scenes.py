"""The shapes scenes as a small data set in LVIS's format, and perfect predictions for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from adet_iuq.data.shapes.dataset import ANNOTATIONS, render_shapes

# disc, triangle, square, star, ring
FREQUENCIES = ("f", "c", "c", "r", "f")
Content = dict[str, Any]


def lvis_content(cfg: CfgNode, split: str) -> tuple[Content, Path]:
    """The annotations of DATASETS.SHAPES in LVIS's format, and the image folder.

    Every class that an image does not show is a negative of the image where the sum of both ids is even, and unlabelled
    else; no class is marked as not exhaustive. Images are named by `coco_url`, as LVIS does.
    """
    folder = render_shapes(cfg, split)
    content = json.loads((folder / ANNOTATIONS).read_text())
    shown: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for annotation in content["annotations"]:
        shown[annotation["image_id"]].add(annotation["category_id"])
    for category, frequency in zip(content["categories"], FREQUENCIES, strict=True):
        category["frequency"] = frequency
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/{folder.name}/{image.pop('file_name')}"
        absent = {category["id"] for category in content["categories"]} - shown[image["id"]]
        image["neg_category_ids"] = sorted(c for c in absent if (c + image["id"]) % 2 == 0)
        image["not_exhaustive_category_ids"] = []
    return content, folder.parent


def perfect_predictions(content: Content) -> dict[int, list[Content]]:
    """For each image id its annotations as detections: `box` XYXY, `mask` (H, W) bool, `label` from 0 and `score`."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    result: dict[int, list[Content]] = {identity: [] for identity in sizes}
    for annotation in content["annotations"]:
        rle = annotation["segmentation"]
        if isinstance(rle, list):
            rle = mask_util.merge(mask_util.frPyObjects(rle, *sizes[annotation["image_id"]]))
        x, y, width, height = annotation["bbox"]
        detection = {
            "box": [x, y, x + width, y + height],
            "mask": mask_util.decode(rle).astype(bool),
            "label": annotation["category_id"] - 1,
            "score": 0.5 + 0.4 / (1 + annotation["id"]),
        }
        result[annotation["image_id"]].append(detection)
    return result


def as_instances(detections: list[Content], size: tuple[int, int]) -> Instances:
    """Detections of one image as a segmenter returns them."""
    result = Instances(size)
    result.pred_boxes = Boxes(torch.tensor([d["box"] for d in detections], dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.tensor([d["score"] for d in detections], dtype=torch.float32)
    result.pred_classes = torch.tensor([d["label"] for d in detections], dtype=torch.int64)
    masks = np.stack([d["mask"] for d in detections]) if detections else np.zeros((0, *size), dtype=bool)
    result.pred_masks = torch.from_numpy(masks)
    return result
