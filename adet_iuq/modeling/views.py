"""The second view g(I) of an image: how g is drawn, and how it changes the image and its annotations (Eq. 6 to 8)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances

from adet_iuq.iuq import CropFlip, image_generator
from adet_iuq.modeling.layers import instance_masks, mask_boxes
from adet_iuq.modeling.segmenter import content_size


@dataclass(frozen=True, kw_only=True)
class Views:
    """How the second view g(I) of an image is drawn; names and meanings are those of MODEL.IUQ.EQUI."""

    flip_prob: float = 0.5
    crop_min: float = 0.6
    crop_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.crop_min <= self.crop_max <= 1:
            raise ValueError(
                f"A crop keeps a share of each side, 0 < crop_min <= crop_max <= 1; these are {self.crop_min} and "
                f"{self.crop_max}."
            )

    def draw(self, inputs: Mapping[str, Any], stride: int, offset: float) -> CropFlip:
        """Draws g for one image by the seed of its sample, so that it depends neither on the rank nor on the batch.

        Args:
            inputs: the image's inputs with `sample_seed`; without that, torch's global generator draws.
            stride: the stride of the dense map, so that the cells of both views meet.
            offset: the position of the pixel that supervises cell 0.
        """
        seeds = [inputs["sample_seed"]] if "sample_seed" in inputs else None
        return CropFlip.sample(
            image_generator(seeds, 0, "crop_flip"),
            content_size(inputs),
            stride=stride,
            offset=offset,
            flip_prob=self.flip_prob,
            crop_range=(self.crop_min, self.crop_max),
        )


def transform_inputs(inputs: Mapping[str, Any], transform: CropFlip) -> dict[str, Any]:
    """Applies g to an image and its annotations: masks are cut, boxes recomputed from them, and lost instances dropped.

    Args:
        inputs: `image` (3, H, W) and `instances` with gt_classes and gt_masks. Everything else is kept, except that the
            view of a padded image is not padded.
        transform: the g that acts on the content of the image.
    """
    instances: Instances = inputs["instances"]
    masks = transform.masks(instance_masks(instances))
    kept = masks.flatten(1).any(1)
    image = transform.image(inputs["image"])
    result = Instances((image.shape[1], image.shape[2]))
    result.gt_classes = instances.gt_classes[kept]
    result.gt_masks = BitMasks(masks[kept].contiguous())
    result.gt_boxes = Boxes(mask_boxes(result.gt_masks.tensor))
    kept_inputs = {key: value for key, value in inputs.items() if key != "content_size"}
    return {**kept_inputs, "image": image, "instances": result}


def on_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The image and its annotations on the model's device, so that g acts there and nothing is copied twice."""
    return {**inputs, "image": inputs["image"].to(device), "instances": inputs["instances"].to(device)}
