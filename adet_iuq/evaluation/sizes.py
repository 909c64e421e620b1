"""Ground truth of the size that images have in their files, for COCO's and LVIS's metrics.

The mapper gives a record the height and width of its image, and predicted masks have that size. Where an entry of the JSON
file swaps the two, its annotations would be rasterised in another size, and masks of two sizes never match.
"""

import itertools
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm


class ImageSizes:
    """The sizes of the images that this process evaluated."""

    def __init__(self) -> None:
        self._found: dict[Any, dict[str, int]] = {}

    def note(self, inputs: list[dict[str, Any]]) -> None:
        """Takes `height` and `width`, where a mapper gives them, of some inputs of the model."""
        for image in inputs:
            self._found[image["image_id"]] = {side: image[side] for side in ("height", "width") if side in image}

    def gather(self) -> dict[Any, dict[str, int]]:
        """What all processes noted, on the main one; every process must call it."""
        return dict(itertools.chain(*(found.items() for found in comm.gather(self._found))))


class SizedCOCOEvaluator(COCOEvaluator):
    """detectron2's evaluator; see the head of this file."""

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        self._sizes = ImageSizes()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes the results of some images; see `DatasetEvaluator`."""
        super().process(inputs, outputs)
        self._sizes.note(inputs)

    def evaluate(self, img_ids: list[Any] | None = None) -> dict[str, Any]:
        """The metrics on the main process, nothing on the others."""
        for identity, size in self._sizes.gather().items():
            self._coco_api.imgs[identity].update(size)
        result: dict[str, Any] = super().evaluate(img_ids)
        return result
