"""SparseInst's training samples (docs/parity/sparseinst.md, "Training"): flip, with a crop in every second image, resize."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import transforms as T

from adet_iuq.data import MAPPER_REGISTRY, TrainingMapper

CROP_SIZES = (400, 500, 600)  # shortest edges that an image is resized to before the crop, pixels
CROP_PROBABILITY = 0.5


@MAPPER_REGISTRY.register("SparseInstDatasetMapper")
class SparseInstMapper(TrainingMapper):
    """The package's mapper with the published augmentations; INPUT.CROP.TYPE and SIZE describe the crop."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments from the INPUT section."""
        plain = cfg.clone()
        plain.defrost()
        plain.INPUT.CROP.ENABLED = False
        resize, *flip = super().from_config(plain)["augmentations"]
        crop: list[T.Augmentation] = []
        if cfg.INPUT.CROP.ENABLED:
            cut = [
                T.ResizeShortestEdge(CROP_SIZES, sample_style="choice"),
                T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE),
            ]
            crop = [T.RandomApply(T.AugmentationList(cut), CROP_PROBABILITY)]
        return {**super().from_config(cfg), "augmentations": [*flip, *crop, resize]}
