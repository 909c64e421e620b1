"""Large-scale jitter: Mask2Former's training mappers for instance and panoptic segmentation.

The frame is a square of INPUT.IMAGE_SIZE. The part at the right and the bottom that the image does not fill is grey (128)
before the normalisation; a sample's `content_size` is the size of the image's part.
Source: docs/parity/mask2former.md, "Data".
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances, polygons_to_bitmask

from adet_iuq.config.deep_images import check_rule
from adet_iuq.data.annotations.panoptic import segment_ids
from adet_iuq.data.annotations.polygons import clip_polygon
from adet_iuq.data.annotations.segmentation import valid_parts
from adet_iuq.data.images.augmentation import build_lsj_augmentations
from adet_iuq.data.images.reading import read_image, read_record
from adet_iuq.data.loading.mapper import transformed_mask
from adet_iuq.data.loading.registries import MAPPER_REGISTRY, SampleMapper
from adet_iuq.data.seeding import seeded
from adet_iuq.errors import UserError

_LEAST_SIDE = 1e-5  # pixels; instances whose box has a smaller side are dropped

Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]


class LSJMapper(SampleMapper):
    """The common part of both mappers: the image and its transforms. Every draw comes from the record's `sample_seed`.

    A call takes a record of detectron2's format with `sample_seed` added. It returns a dict with `image`, a uint8
    tensor (3, S, S) in INPUT.FORMAT; `content_size`, the (height, width) that the image fills from the top left corner
    on; `instances` (possibly none) with `gt_boxes` (XYXY, pixels), `gt_classes` and `gt_masks` (BitMasks (K, S, S));
    and the record's other entries except its annotations.

    Raises:
        UserError: the image is missing, damaged, or of another size than its record says.
    """

    @configurable
    def __init__(self, *, augmentations: list[T.Augmentation], image_format: str, deep_images: str = "dtype") -> None:
        """The parts may come from a config or be given directly.

        Args:
            augmentations: the augmentations, applied in this order.
            image_format: INPUT.FORMAT, such as "RGB".
            deep_images: INPUT.DEEP_IMAGES.

        Raises:
            UserError: `deep_images` is unknown.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.deep_images = check_rule(deep_images)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from the INPUT section."""
        return {
            "augmentations": build_lsj_augmentations(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "deep_images": cfg.INPUT.DEEP_IMAGES,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        image, record = read_record(record, self.image_format, self.deep_images)
        inputs = T.AugInput(image)
        with seeded(record["sample_seed"]):
            transforms = self.augmentations(inputs)
        height, width = inputs.image.shape[:2]
        sample = {key: value for key, value in record.items() if key not in ("annotations", "segments_info")}
        sample["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        sample["content_size"] = _content_size(transforms, (height, width))
        sample["instances"] = self.make_instances(record, transforms, (height, width))
        return sample

    def make_instances(self, record: dict[str, Any], transforms: T.TransformList, size: Size) -> Instances:
        """The record's annotations after the transforms, on a canvas of `size` (height, width)."""
        raise NotImplementedError


@MAPPER_REGISTRY.register("coco_instance_lsj")
class InstanceLSJMapper(LSJMapper):
    """`coco_instance_lsj` drops crowds, cuts polygons to the frame, rasterises them there, and takes boxes from the masks.

    Run-length masks, which the published mapper refuses, are warped with nearest neighbours.
    """

    def make_instances(self, record: dict[str, Any], transforms: T.TransformList, size: Size) -> Instances:
        """See `LSJMapper`. Instances of which nothing is left are dropped."""
        masks, classes, boxes = [], [], []
        for annotation in record["annotations"]:
            if annotation.get("iscrowd", 0):
                continue
            mask, box = _cut(annotation.get("segmentation"), transforms, record, size)
            if mask is not None and (box[2:] - box[:2]).min() > _LEAST_SIDE:
                masks.append(mask)
                classes.append(int(annotation["category_id"]))
                boxes.append(box)
        instances = _bit_mask_instances(masks, classes, size)
        instances.gt_boxes = Boxes(torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
        return instances


@MAPPER_REGISTRY.register("coco_panoptic_lsj")
class PanopticLSJMapper(LSJMapper):
    """`coco_panoptic_lsj` makes one mask per segment (things and stuff, no crowds) from the colours of the panoptic PNG.

    Segments that the crop removes stay, with an empty mask, as published; `gt_isthing` tells things from stuff.
    """

    needs = "segments_info"

    def make_instances(self, record: dict[str, Any], transforms: T.TransformList, size: Size) -> Instances:
        """See `LSJMapper`; `gt_classes` count things and stuff together."""
        # The colours are transformed, as ids would not fit into the
        # 8 bits that the transforms resize with nearest neighbours.
        ids = segment_ids(transforms.apply_segmentation(_read_panoptic(record)))
        segments = [segment for segment in record["segments_info"] if not segment.get("iscrowd", 0)]
        masks = [ids == segment["id"] for segment in segments]
        instances = _bit_mask_instances(masks, [int(segment["category_id"]) for segment in segments], size)
        boxes = [_box(mask) for mask in masks]
        instances.gt_boxes = Boxes(torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
        things = [bool(segment.get("isthing", True)) for segment in segments]
        instances.gt_isthing = torch.tensor(things, dtype=torch.bool)
        return instances


def _read_panoptic(record: dict[str, Any]) -> npt.NDArray[np.uint8]:
    path = record["pan_seg_file_name"]
    colours = read_image(path, "RGB", kind="Panoptic map")
    if colours.shape[:2] != (record["height"], record["width"]):
        raise UserError(
            f"Panoptic map {path} is {colours.shape[1]} x {colours.shape[0]} pixels (width x height), but its image is "
            f"{record['width']} x {record['height']}."
        )
    return colours


def _content_size(transforms: T.TransformList, size: Size) -> Size:
    """The part of a canvas of `size` that is not padding."""
    height, width = size
    for transform in transforms.transforms:
        if isinstance(transform, T.PadTransform):
            height, width = height - transform.y1, width - transform.x1
    return height, width


def _cut(
    segmentation: Any, transforms: T.TransformList, record: dict[str, Any], size: Size
) -> tuple[Mask | None, npt.NDArray[np.float64]]:
    """An annotation's mask on the canvas and its XYXY box; the mask is None if it is unusable or nothing is left."""
    nothing = np.zeros(4)
    parts = valid_parts(segmentation)
    if not parts:
        mask = transformed_mask(segmentation, transforms, record, size)
        return (None, nothing) if mask is None or not mask.any() else (mask, _box(mask))
    moved = [transforms.apply_coords(np.asarray(part, dtype=np.float64).reshape(-1, 2)) for part in parts]
    cut = [part for part in (clip_polygon(points, size[1], size[0]) for points in moved) if len(part) > 2]
    if not cut:
        return None, nothing
    points = np.concatenate(cut)
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return np.asarray(polygons_to_bitmask([part.reshape(-1) for part in cut], *size)), box


def _box(mask: Mask) -> npt.NDArray[np.float64]:
    """The XYXY box around a mask; zeros around an empty one."""
    ends = [np.flatnonzero(mask.any(axis)) for axis in (0, 1)]
    if not len(ends[0]):
        return np.zeros(4)
    return np.array([ends[0][0], ends[1][0], ends[0][-1] + 1, ends[1][-1] + 1], dtype=np.float64)


def _bit_mask_instances(masks: list[Mask], classes: list[int], size: Size) -> Instances:
    instances = Instances(size)
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    stacked = torch.from_numpy(np.stack(masks)) if masks else torch.zeros((0, *size), dtype=torch.bool)
    instances.gt_masks = BitMasks(stacked)
    return instances
