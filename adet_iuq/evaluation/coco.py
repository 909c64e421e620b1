"""COCO's metrics on files that detectron2's evaluator would read wrongly."""

import os
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm

from adet_iuq.data.annotations.evaluation_json import ORIGINAL_ID
from adet_iuq.evaluation.run_lengths import RunLengthEvaluator, coco_results
from adet_iuq.evaluation.sizes import ImageSizes
from adet_iuq.evaluation.source import Source, write_source

RESULTS_FILE = "coco_instances_results.json"  # detectron2's name


class InstanceEvaluator(COCOEvaluator, RunLengthEvaluator):
    """detectron2's evaluator of boxes and masks, which here also accepts run lengths.

    It gets three things of the ground truth right: the order of the classes, the ids of the images, and their sizes.

    Order of the classes: pycocotools sorts classes by their ids in the file. A model may number them in another order,
    because classes are matched by name. detectron2 would then print each AP under the name of another class.

    Ids of the images: the repaired ground truth may have given its images new ids. Predictions then get the new ids too,
    also in the files of predictions; the ground truth beside these files says which image is which.

    Sizes of the images: the sizes are those of the image files (adet_iuq/evaluation/sizes.py).
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        images = self._coco_api.dataset["images"]
        self._numbers = {image[ORIGINAL_ID]: image["id"] for image in images if ORIGINAL_ID in image}

    def reset(self) -> None:
        """Forgets all images."""
        super().reset()
        self._sizes = ImageSizes()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in the results of a batch; `image_id` of the inputs is that of the user's file."""
        if self._numbers:
            inputs = [{**one, "image_id": self._numbers[one["image_id"]]} for one in inputs]
        for one, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                found = coco_results(output["instances"], one["image_id"])
                self._predictions.append({"image_id": one["image_id"], "instances": found})
        self._sizes.note(inputs)

    def evaluate(self, img_ids: list[Any] | None = None) -> dict[str, Any]:
        """The metrics on the main process; nothing on the others."""
        for identity, size in self._sizes.gather().items():
            self._coco_api.imgs[identity].update(size)
        result: dict[str, Any] = super().evaluate(img_ids)
        if comm.is_main_process() and self._output_dir:
            write_source(self._output_dir, self._source())
        return result

    def _source(self) -> Source:
        return Source(
            ground_truth=self._metadata.json_file,
            image_root=self._metadata.get("image_root") or os.path.dirname(self._metadata.json_file),
            task="bbox" if self._tasks is not None and "segm" not in self._tasks else "segm",
            rules="coco",
            predictions=RESULTS_FILE,
            max_detections=self._max_dets_per_image[-1],
        )

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        numbers = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if coco_eval is not None and class_names is not None and numbers:
            class_names = [class_names[numbers[category]] for category in coco_eval.params.catIds]
        results: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        return results
