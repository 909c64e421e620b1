"""An oracle: it sees every bright blob that is large enough at the resolution of its input, and nothing else."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F

from adet_iuq.config import load_config
from adet_iuq.modeling import Segmenter, TrainingPass
from adet_iuq.modeling.segmenter import output_size
from helpers.toy_segmenter import toy_options

LEAST_AREA = 30  # pixels of the network's input
CLASSES = 5  # of the shapes


@META_ARCH_REGISTRY.register()
class BlobSegmenter(Segmenter):
    """A blob's brightness is its score, its red (more than its blue) makes it class 1 instead of 0.

    Attributes:
        batches: how many images each forward pass has had.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(pixel_mean=cfg.MODEL.PIXEL_MEAN, pixel_std=cfg.MODEL.PIXEL_STD)
        self.unused = nn.Linear(1, 1)  # a checkpoint holds something
        self.batches: list[int] = []

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        raise NotImplementedError

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.batches.append(len(batched_inputs))
        return [{"instances": self._blobs(inputs)} for inputs in batched_inputs]

    def _blobs(self, inputs: dict[str, Any]) -> Instances:
        image = inputs["image"].numpy()
        height, width = output_size(inputs, image.shape[1:])
        count, labels, stats, _ = cv2.connectedComponentsWithStats((image.max(axis=0) > 100).astype(np.uint8))
        chosen = [index for index in range(1, count) if stats[index, cv2.CC_STAT_AREA] >= LEAST_AREA]
        seen = [labels == index for index in chosen]
        masks = [_resized(mask, (height, width)) for mask in seen]
        result = Instances((height, width))
        boxes = [[*mask.nonzero().amin(0).flip(0), *(mask.nonzero().amax(0).flip(0) + 1)] for mask in masks]
        result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        result.scores = torch.tensor([float(image.max(axis=0)[mask].mean()) / 255 for mask in seen])
        red = [bool(image[2][mask].mean() > image[0][mask].mean()) for mask in seen]
        result.pred_classes = torch.tensor(red, dtype=torch.long)
        result.pred_masks = self.gathered_masks((mask[None] for mask in masks), len(masks), (height, width))
        return result


def _resized(mask: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) bool of the size."""
    return F.interpolate(torch.from_numpy(mask)[None, None].float(), size=size, mode="nearest")[0, 0] > 0.5


def save_blob_run(folder: Path, side: int = 100) -> Path:
    """The folder of a finished run of it, whose test resolution is `side`; returns the folder."""
    options = toy_options(folder, MODEL__META_ARCHITECTURE="BlobSegmenter", MODEL__FCOS__NUM_CLASSES=CLASSES)
    cfg = load_config(None, [*options, "INPUT.MIN_SIZE_TEST", str(side), "INPUT.MAX_SIZE_TEST", str(4 * side)]).cfg
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    return folder


def scene(size: tuple[int, int], blobs: list[tuple[int, int, int, int]], value: int = 230) -> np.ndarray:
    """(H, W, 3) uint8: bright rectangles (x0, y0, x1, y1) on black, slightly blue."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    for x0, y0, x1, y1 in blobs:
        image[y0:y1, x0:x1] = (value, value, value - 20)
    return image
