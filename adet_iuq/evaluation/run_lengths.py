"""Evaluators that take masks as run lengths, so that no tensor of all masks of a large image is ever made."""

from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from adet_iuq.modeling.layers import EncodedMasks


class RunLengthEvaluator(DatasetEvaluator):
    """An evaluator that accepts for `pred_masks` both `EncodedMasks` and a tensor.

    If all evaluators of an evaluation do, the segmenter encodes its masks one by one. Any other evaluator gets tensors.
    """


def coco_results(instances: Instances, image_id: Any) -> list[dict[str, Any]]:
    """One image's results in COCO's format, which needs little memory: masks are run lengths that JSON can hold.

    Args:
        instances: the result of a segmenter's `inference`.
        image_id: the id of the image, which is written to each result.
    """
    instances = instances.to("cpu")
    masks = instances.pred_masks if instances.has("pred_masks") else None
    if not isinstance(masks, EncodedMasks):
        tensors: list[dict[str, Any]] = instances_to_coco_json(instances, image_id)
        return tensors
    fields = {name: value for name, value in instances.get_fields().items() if name != "pred_masks"}
    results = instances_to_coco_json(Instances(instances.image_size, **fields), image_id)
    texts = [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in masks.rles]
    return [{**result, "segmentation": text} for result, text in zip(results, texts, strict=True)]
