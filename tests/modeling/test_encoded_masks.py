"""Every segmenter gives the same results with run lengths as with a tensor, and evaluators write the same file of them."""

import json
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from adet_iuq.config import get_cfg
from adet_iuq.engine.loop.evaluation import evaluate_all
from adet_iuq.evaluation.coco import InstanceEvaluator
from adet_iuq.evaluation.run_lengths import coco_results
from adet_iuq.modeling.layers import EncodedMasks
from helpers.grid_checks import grid_options
from helpers.scenes import SMALL_MASK2FORMER, discs, small_model
from helpers.toy_segmenter import BareSegmenter

ALL = {
    "CondInst": ("CondInst/R50_1x.yaml", ("MODEL.FCOS.INFERENCE_TH_TEST", "0.0")),
    "SOLOv2": ("SOLOv2/R50_1x.yaml", grid_options("SOLOV2")),
    "SOTR": ("SOTR/R50.yaml", grid_options("SOTR")),
    "Mask2Former": ("Mask2Former/R50_50ep.yaml", tuple(SMALL_MASK2FORMER)),
}


@pytest.mark.parametrize("name", ALL)
def test_run_lengths_and_tensors_are_the_same_results(name: str) -> None:
    recipe, overrides = ALL[name]
    if name.startswith("SO"):
        section = f"MODEL.{name.upper()}"
        overrides = (*overrides, f"{section}.SCORE_THR", "0.0", f"{section}.UPDATE_THR", "0.0")
    model = small_model(recipe, *overrides).eval()
    inputs = [{**discs(64, 96, 3, seed=1), "height": 51, "width": 83}]
    with torch.no_grad():
        tensors = model(inputs)[0]["instances"]
        with model.encoding_masks():
            encoded = model(inputs)[0]["instances"]
    assert len(tensors) and isinstance(encoded.pred_masks, EncodedMasks)
    assert torch.equal(encoded.pred_masks.decoded(), tensors.pred_masks) and tensors.pred_masks.dtype == torch.bool
    for field in ("scores", "pred_classes"):
        assert torch.equal(encoded.get(field), tensors.get(field))
    assert torch.equal(encoded.pred_boxes.tensor, tensors.pred_boxes.tensor)
    assert coco_results(encoded, 3) == coco_results(tensors, 3)
    json.dumps(coco_results(encoded, 3))


class _Evaluator(DatasetEvaluator):
    """Not one of this project's."""


@pytest.mark.parametrize("more,encoded", [([], True), ([_Evaluator()], False)])
def test_evaluators_that_want_tensors_get_them(more: list[DatasetEvaluator], encoded: bool) -> None:
    own = object.__new__(InstanceEvaluator)  # never run
    model, seen = BareSegmenter(), []

    def evaluate(_cfg: CfgNode, model: Any, _evaluators: Any) -> dict[str, Any]:
        seen.append(model.masks_encoded)
        return {}

    cfg = get_cfg()
    cfg.DATASETS.TEST = ("any",)
    evaluate_all(evaluate, cfg, model, [own, *more], lambda _cfg, _name: own)
    assert seen == [encoded] and not model.masks_encoded
