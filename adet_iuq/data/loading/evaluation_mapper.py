"""Turns a data set's record into the input of a segmenter for prediction."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from adet_iuq.config.deep_images import check_rule
from adet_iuq.data.images.augmentation import build_test_augmentations
from adet_iuq.data.images.reading import read_record


class EvaluationMapper:
    """Does what detectron2's DatasetMapper does for evaluations, with this project's reader of images.

    A call takes a record of detectron2's format and returns a dict with `image`, a uint8 tensor (3, H, W) in INPUT.FORMAT,
    `height` and `width` of the image in its file, and the record's other entries except `annotations`.

    Raises:
        UserError: the image is missing, damaged, or of another size than its record says.
    """

    @configurable
    def __init__(self, *, augmentations: list[T.Augmentation], image_format: str, deep_images: str = "dtype") -> None:
        """The parts may come from a config or be given directly.

        Args:
            augmentations: the augmentations, applied in this order.
            image_format: INPUT.FORMAT, such as "BGR".
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
            "augmentations": build_test_augmentations(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "deep_images": cfg.INPUT.DEEP_IMAGES,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        image, record = read_record(record, self.image_format, self.deep_images)
        inputs = T.AugInput(image)
        self.augmentations(inputs)
        sample = {key: value for key, value in record.items() if key != "annotations"}
        sample["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        return sample
