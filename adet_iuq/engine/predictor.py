"""Predictions for single images, outside of any data set."""

from typing import Any

import detectron2.data.transforms as T
import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances

from adet_iuq.checkpoint import build_checkpointer
from adet_iuq.config import load_config
from adet_iuq.data import fill_class_counts, register_datasets
from adet_iuq.engine.setup import choose_device
from adet_iuq.engine.trainer import Trainer
from adet_iuq.errors import UserError


def inference_config(config_file: str, weights: str, opts: list[str]) -> CfgNode:
    """A frozen config for predicting with `weights`; writes nothing.

    Raises:
        UserError: the config is wrong, or the data sets that name its classes are not there.
    """
    loaded = load_config(config_file, [*opts, "MODEL.WEIGHTS", weights])
    cfg = loaded.cfg
    choose_device(cfg, user_set="MODEL.DEVICE" in loaded.explicit)
    register_datasets(cfg)
    fill_class_counts(cfg, loaded.explicit)
    cfg.freeze()
    return cfg


class Predictor:
    """A model in evaluation mode with the test-time resizing of its config.

    Args:
        cfg: MODEL.WEIGHTS names the weights, which must fit exactly.

    Raises:
        UserError: the weights are missing or do not fit.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if not cfg.MODEL.WEIGHTS:
            raise UserError("No weights: name a checkpoint with --weights.")
        self.model = Trainer.build_model(cfg).eval()
        build_checkpointer(cfg, self.model).load(cfg.MODEL.WEIGHTS, checkpointables=[], strict=True)
        self._resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self._rgb = cfg.INPUT.FORMAT == "RGB"
        self.metadata = metadata(cfg)

    @torch.no_grad()
    def __call__(self, image: npt.NDArray[np.uint8]) -> Instances:
        """Predictions at the image's own size, on the CPU.

        Args:
            image: (H, W, 3) uint8, BGR.
        """
        height, width = image.shape[:2]
        ordered = image[:, :, ::-1] if self._rgb else image
        resized = self._resize.get_transform(ordered).apply_image(ordered)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        outputs = self.model([{"image": tensor, "height": height, "width": width}])
        return outputs[0]["instances"].to("cpu")


def metadata(cfg: CfgNode) -> dict[str, Any]:
    """Class names and the data set's own category ids (contiguous to original), of the first test or training set."""
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    found = MetadataCatalog.get(names[0]) if names else None
    classes = list(found.get("thing_classes") or []) if found else []
    numbers = (found.get("thing_dataset_id_to_contiguous_id") or {}) if found else {}
    return {"thing_classes": classes, "category_ids": {index: number for number, index in numbers.items()}}
