"""The inner predictor, from pixels to detectron2's Instances. The public one, the tools and the pages use it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from adet_iuq.checkpoint import build_checkpointer
from adet_iuq.config.deep_images import check_rule
from adet_iuq.data.images.augmentation import build_test_augmentations
from adet_iuq.engine.description import class_names, read_class_names
from adet_iuq.engine.loop.precision import half_dtype
from adet_iuq.engine.loop.trainer import Trainer
from adet_iuq.errors import UserError

Pixels = npt.NDArray[np.uint8]


class InstancePredictor:
    """A model in evaluation mode, with the test-time resizing of its config.

    Attributes:
        model: the segmenter.
        metadata: `thing_classes` and `category_ids`.
        deep_images: INPUT.DEEP_IMAGES, for code that reads images for the predictor.

    Args:
        cfg: the config, whose MODEL.WEIGHTS names the weights, which must fit exactly.
        half: whether it computes in bfloat16 or float16 (`half_dtype`).

    Raises:
        UserError: the weights are missing or do not fit, or INPUT.DEEP_IMAGES is unknown.
    """

    def __init__(self, cfg: CfgNode, half: bool = False) -> None:
        if not cfg.MODEL.WEIGHTS:
            raise UserError("No weights: name a checkpoint with --weights.")
        self.model = Trainer.build_model(cfg).eval()
        build_checkpointer(cfg, self.model).load(cfg.MODEL.WEIGHTS, strict=True)
        (self._resize,) = build_test_augmentations(cfg)
        self._dtype = half_dtype(cfg.MODEL.DEVICE) if half else None
        self.deep_images = check_rule(cfg.INPUT.DEEP_IMAGES)
        self._rgb = cfg.INPUT.FORMAT == "RGB"
        self.metadata = read_class_names(cfg.MODEL.WEIGHTS) or class_names(cfg)

    def __call__(self, image: Pixels) -> Instances:
        """Predictions at the image's own size, on the CPU; `pred_masks` is a bool tensor (N, H, W).

        Args:
            image: (H, W, 3) uint8, BGR.
        """
        return self._run([self._input(image)])[0]

    def encoded(self, images: Sequence[Pixels], batch_size: int = 1) -> list[Instances]:
        """Predictions for several images, with `pred_masks` as `EncodedMasks`, which need little memory.

        Images pass the network together if they have the same size there, so that none is padded. Padding would take
        part in the detection, and a result would depend on an image's neighbours.

        Args:
            images: (H, W, 3) uint8 each, BGR.
            batch_size: the most images in one forward pass.
        """
        inputs = [self._input(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, one in enumerate(inputs):
            groups.setdefault(tuple(one["image"].shape), []).append(index)
        results: dict[int, Instances] = {}
        with self.model.encoding_masks():
            for group in groups.values():
                for start in range(0, len(group), batch_size):
                    part = group[start : start + batch_size]
                    results.update(zip(part, self._run([inputs[index] for index in part]), strict=True))
        return [results[index] for index in range(len(inputs))]

    def _input(self, image: Pixels) -> dict[str, Any]:
        height, width = image.shape[:2]
        ordered = image[:, :, ::-1] if self._rgb else image
        resized = self._resize.get_transform(ordered).apply_image(ordered)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    @torch.no_grad()
    def _run(self, inputs: list[dict[str, Any]]) -> list[Instances]:
        with torch.autocast(self.model.device.type, dtype=self._dtype, enabled=self._dtype is not None):
            outputs = self.model(inputs)
        if any("instances" not in output for output in outputs):
            raise UserError("The config of this model asks for no instances (panoptic or semantic results only).")
        return [output["instances"].to("cpu") for output in outputs]
