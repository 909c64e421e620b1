"""Predictions for single images, outside of any data set."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from adet_iuq.checkpoint import build_checkpointer
from adet_iuq.config import AddConfig, load_config
from adet_iuq.config.deep_images import check_rule
from adet_iuq.data import fill_class_counts
from adet_iuq.data.images.augmentation import build_test_augmentations
from adet_iuq.engine.description import class_names, read_class_names, trained_classes
from adet_iuq.engine.loop.trainer import Trainer
from adet_iuq.engine.setup import choose_device
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)


def inference_config(
    config_file: str, weights: str, opts: list[str], add_config: AddConfig | Sequence[AddConfig] = ()
) -> CfgNode:
    """A frozen config for predicting with `weights`; writes nothing.

    Without the data sets of the config on this machine, the class names beside the weights serve, and the config must give
    its NUM_CLASSES, as the config.yaml of a training does. `add_config` is as for `load_config`.

    Raises:
        UserError: the config is wrong, or neither the data sets nor `weights` name its classes.
    """
    loaded = load_config(config_file, [*opts, "MODEL.WEIGHTS", weights], add_config)
    cfg = loaded.cfg
    choose_device(cfg, user_set="MODEL.DEVICE" in loaded.explicit)
    try:
        fill_class_counts(cfg, loaded.overridden, trained_classes(weights, binding=True))
    except UserError as error:
        if read_class_names(weights) is None:
            raise
        logger.warning("Classes are taken from the file beside the weights: %s", error)
        cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], (), ()
    cfg.freeze()
    return cfg


class Predictor:
    """A model in evaluation mode with the test-time resizing of its config.

    Attributes:
        metadata: `thing_classes` and `category_ids`.
        deep_images: INPUT.DEEP_IMAGES, for whoever reads images for it.

    Args:
        cfg: MODEL.WEIGHTS names the weights, which must fit exactly.

    Raises:
        UserError: the weights are missing or do not fit; INPUT.DEEP_IMAGES is unknown.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if not cfg.MODEL.WEIGHTS:
            raise UserError("No weights: name a checkpoint with --weights.")
        self.model = Trainer.build_model(cfg).eval()
        build_checkpointer(cfg, self.model).load(cfg.MODEL.WEIGHTS, strict=True)
        (self._resize,) = build_test_augmentations(cfg)
        self.deep_images = check_rule(cfg.INPUT.DEEP_IMAGES)
        self._rgb = cfg.INPUT.FORMAT == "RGB"
        self.metadata = read_class_names(cfg.MODEL.WEIGHTS) or class_names(cfg)

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
