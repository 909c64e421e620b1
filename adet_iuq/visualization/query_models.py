"""Models whose queries are shown, and pictures as their networks see them.

Pictures have the network's input size throughout, so that masks, heat maps and shown images have the same frame.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor

from adet_iuq.config import AddConfig
from adet_iuq.data import TrainingMapper, load_dataset
from adet_iuq.data.images.augmentation import build_test_augmentations
from adet_iuq.data.images.reading import read_image
from adet_iuq.errors import UserError
from adet_iuq.inference import InstancePredictor, inference_config
from adet_iuq.inference.images import find_files
from adet_iuq.modeling import IUQMetaArch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """An image as the network sees it.

    Attributes:
        name: the name that titles show.
        rgb: (h, w, 3) uint8, the image for people.
        image: (3, h, w) uint8 in INPUT.FORMAT, the image for the network.
        truth: the annotations, if there are any.
    """

    name: str
    rgb: npt.NDArray[np.uint8]
    image: Tensor
    truth: Instances | None = None


class QueryModel:
    """An IUQ model with its weights. It can load a base segmenter's weights and then shows the base's queries.

    Attributes:
        name: the name that pictures show.
        class_names: the names of the classes in their order.

    Args:
        name: the name that pictures show.
        cfg: the result of `inference_config`, whose MODEL.META_ARCHITECTURE is an IUQ model.

    Raises:
        UserError: the model is a base segmenter, or the weights are missing or do not fit.
    """

    def __init__(self, name: str, cfg: CfgNode) -> None:
        predictor = InstancePredictor(cfg)
        if not isinstance(predictor.model, IUQMetaArch):
            raise UserError(
                f"{cfg.MODEL.META_ARCHITECTURE} does not show its queries. Use the config of its IUQ twin, which accepts "
                "the base's weights, or add --opts MODEL.META_ARCHITECTURE with the name of the twin."
            )
        self.name, self.model, self._cfg = name, predictor.model, cfg
        self.class_names: list[str] = predictor.metadata["thing_classes"]
        self._deep_images = predictor.deep_images
        (self._resize,) = build_test_augmentations(cfg)

    def read(self, path: Path, name: str = "") -> Picture:
        """The picture in a file, with the file's name unless another one is given.

        Raises:
            UserError: the file is no image or cannot be read.
        """
        pixels = read_image(path, self._cfg.INPUT.FORMAT, deep_images=self._deep_images)
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        return self._picture(name or path.name, torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))))

    def dataset(self, name: str) -> Iterator[Picture]:
        """The pictures of a data set with their annotations, in its order, without those that have no instance.

        Raises:
            UserError: the data set or an image cannot be read.
        """
        mapper = TrainingMapper(
            augmentations=build_test_augmentations(self._cfg),
            image_format=self._cfg.INPUT.FORMAT,
            recompute_boxes=False,
            deep_images=self._cfg.INPUT.DEEP_IMAGES,
        )
        for record in load_dataset(name):
            sample: dict[str, Any] = mapper({**record, "sample_seed": 0})
            if len(sample["instances"]):
                yield self._picture(Path(record["file_name"]).name, sample["image"], sample["instances"])

    def _picture(self, name: str, image: Tensor, truth: Instances | None = None) -> Picture:
        pixels = image.permute(1, 2, 0).numpy()
        rgb = pixels if self._cfg.INPUT.FORMAT == "RGB" else pixels[:, :, ::-1]
        return Picture(name, np.ascontiguousarray(rgb), image, truth)


def load_models(
    config_file: str,
    weights: str,
    base_weights: str = "",
    opts: Sequence[str] = (),
    add_config: AddConfig | Sequence[AddConfig] = (),
) -> list[QueryModel]:
    """The models to compare, both built from the IUQ model's config: the base, if its weights are named, and IUQ.

    Raises:
        UserError: `inference_config` or `QueryModel` raises it.
    """
    named = {"base": base_weights, "IUQ": weights}
    return [
        QueryModel(name, inference_config(config_file, file, list(opts), add_config))
        for name, file in named.items()
        if file
    ]


def example_files(cfg: CfgNode, folder: str = "") -> list[Path]:
    """The images of `folder`, or else those of the first test set; none if its data is not on this machine.

    Raises:
        UserError: there is no such folder, or it holds no image.
    """
    if folder and not Path(folder).expanduser().is_dir():
        raise UserError(f"{folder} is no folder: name one with pictures, or none for the test images.")
    if folder:
        return find_files([folder])
    if not cfg.DATASETS.TEST:
        return []
    try:
        return [Path(record["file_name"]) for record in load_dataset(cfg.DATASETS.TEST[0])]
    except UserError as error:
        logger.warning("No examples: %s", error)
        return []
