"""Turns a data set's record into a training sample: the image and bit masks at network-input resolution."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, polygons_to_bitmask
from detectron2.utils.logger import log_first_n

from adet_iuq.config.deep_images import check_rule
from adet_iuq.data.annotations.segmentation import rle_problem, valid_parts
from adet_iuq.data.images.augmentation import build_training_augmentations
from adet_iuq.data.images.reading import read_record
from adet_iuq.data.loading.registries import MAPPER_REGISTRY, SampleMapper
from adet_iuq.data.seeding import seeded

_LEAST_SIDE = 1e-5  # pixels; boxes with a smaller side are empty


@MAPPER_REGISTRY.register("")
class TrainingMapper(SampleMapper):
    """Reads one record and augments it (docs/parity/condinst.md, "Data"); every draw comes from its `sample_seed`.

    A call takes a record of detectron2's format with `sample_seed` added. It returns a dict with `image`, a uint8
    tensor (3, H, W) in INPUT.FORMAT; `instances` (possibly none) with `gt_boxes` (XYXY, pixels of the network input),
    `gt_classes` and `gt_masks` (BitMasks (K, H, W)); `height` and `width` of the image in its file; and the record's
    other entries except `annotations`. Crowds are dropped. Polygons are rasterised once, here; run-length masks are
    decoded and warped. If nothing of a box is left in the image, the box is taken from its mask.

    Raises:
        UserError: the image is missing, damaged, or of another size than its record says.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: list[T.Augmentation],
        image_format: str,
        recompute_boxes: bool,
        deep_images: str = "dtype",
    ) -> None:
        """The parts may come from a config or be given directly.

        Args:
            augmentations: the augmentations, applied in this order.
            image_format: INPUT.FORMAT, such as "BGR".
            recompute_boxes: whether boxes are taken from the masks, which is necessary if a crop cuts them.
            deep_images: INPUT.DEEP_IMAGES.

        Raises:
            UserError: `deep_images` is unknown.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.deep_images = check_rule(deep_images)
        self.recompute_boxes = recompute_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from the INPUT section."""
        return {
            "augmentations": build_training_augmentations(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "recompute_boxes": cfg.INPUT.CROP.ENABLED,
            "deep_images": cfg.INPUT.DEEP_IMAGES,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        image, record = read_record(record, self.image_format, self.deep_images)
        annotations = record.get("annotations", [])
        boxes = np.array([_xyxy(annotation) for annotation in annotations], dtype=np.float64).reshape(-1, 4)
        inputs = T.AugInput(image, boxes=boxes)
        with seeded(record["sample_seed"]):
            transforms = self.augmentations(inputs)
        sample = {key: value for key, value in record.items() if key != "annotations"}
        sample["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        kept = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
        sample["instances"] = self._instances(kept, transforms, record, inputs.image.shape[:2])
        return sample

    def _instances(
        self,
        annotations: list[dict[str, Any]],
        transforms: T.TransformList,
        record: dict[str, Any],
        size: tuple[int, int],
    ) -> Instances:
        boxes, classes, masks = [], [], []
        for annotation in annotations:
            mask = transformed_mask(annotation.get("segmentation"), transforms, record, size)
            if mask is None:
                continue
            box = transforms.apply_box(np.array([_xyxy(annotation)]))[0]
            boxes.append(np.clip(box, 0, [size[1], size[0], size[1], size[0]]))
            classes.append(int(annotation["category_id"]))
            masks.append(torch.from_numpy(np.ascontiguousarray(mask)))
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        instances.gt_masks = BitMasks(torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.bool))
        instances = instances[instances.gt_masks.nonempty()]
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        else:
            empty = ~instances.gt_boxes.nonempty(threshold=_LEAST_SIDE)
            instances.gt_boxes.tensor[empty] = instances.gt_masks[empty].get_bounding_boxes().tensor
        return instances


def _xyxy(annotation: dict[str, Any]) -> list[float]:
    box: list[float] = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return box


def transformed_mask(
    segmentation: Any, transforms: T.TransformList, record: dict[str, Any], size: tuple[int, int]
) -> npt.NDArray[np.bool_] | None:
    """An annotation's mask, (H, W) bool of `size`, after the transforms; None if its segmentation is unusable.

    Polygons are transformed by their points and rasterised once, on the final canvas, where the COCO API leaves out the
    parts outside (cutting them before would need shapely). Run-length masks are decoded and warped with nearest neighbours.
    """
    parts = valid_parts(segmentation)
    if parts:
        moved = [transforms.apply_coords(np.asarray(part, dtype=np.float64).reshape(-1, 2)) for part in parts]
        return np.asarray(polygons_to_bitmask([part.reshape(-1) for part in moved], *size))
    if isinstance(segmentation, dict):
        problem = rle_problem(segmentation, record["height"], record["width"])
        if problem is None:
            # Not > 0, because later versions of detectron2 pad segmentations with 255.
            mask = np.asarray(transforms.apply_segmentation(mask_util.decode(segmentation)) == 1)
            assert mask.shape == tuple(size), (mask.shape, size)
            return mask
    log_first_n(
        logging.WARNING,
        f"{record['file_name']}: an annotation without a usable segmentation is left out (said once).",
        key="message",
    )
    return None
