"""COCO's metrics with every class's AP under its own name."""

from typing import Any

from detectron2.evaluation import COCOEvaluator


class InstanceEvaluator(COCOEvaluator):
    """detectron2's evaluator of boxes and masks.

    pycocotools sorts classes by their ids in the file. Where a model numbers them otherwise (classes are matched by
    name), detectron2 would print each AP under another class's name.
    """

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        numbers = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if coco_eval is not None and class_names is not None and numbers:
            class_names = [class_names[numbers[category]] for category in coco_eval.params.catIds]
        results: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        return results
