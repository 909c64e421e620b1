"""COCO's evaluator on a ground truth whose images had to be numbered anew."""

from typing import Any


from adet_iuq.data.annotations.evaluation_json import ORIGINAL_ID
from adet_iuq.evaluation.sizes import SizedCOCOEvaluator


class NumberedCOCOEvaluator(SizedCOCOEvaluator):
    """COCO's metrics; predictions get the numbers that the mended ground truth gave their images, if it did.

    Their files then have these numbers too; the ground truth beside them says which image is which.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        images = self._coco_api.dataset["images"]
        self._numbers = {image[ORIGINAL_ID]: image["id"] for image in images if ORIGINAL_ID in image}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in the results of a batch; `image_id` of the inputs is that of the user's file."""
        if self._numbers:
            inputs = [{**one, "image_id": self._numbers[one["image_id"]]} for one in inputs]
        super().process(inputs, outputs)
