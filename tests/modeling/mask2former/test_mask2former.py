"""The whole Mask2Former model: what it trains on, what it returns, its options, and configs that it takes or refuses."""

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import PolygonMasks

from adet_iuq.config import load_config
from adet_iuq.errors import UserError
from adet_iuq.modeling.layers import instance_masks
from adet_iuq.modeling.mask2former import MaskFormer
from helpers.scenes import discs, mask2former_model

BASE = "Mask2Former/R50_50ep.yaml"


def test_base_model_trains_images_with_and_without_instances() -> None:
    model = mask2former_model(BASE)
    inputs = [discs(64, 96, 3, seed=1), discs(96, 64, 0, seed=2)]
    losses = model(inputs)
    assert len(losses) == 3 * 4
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    empty = model([discs(64, 64, 0, seed=3)])
    torch.stack(list(empty.values())).sum().backward()
    for name, loss in empty.items():
        assert loss > 0 if name.startswith("loss_ce") else loss == 0, name


def test_polygons_and_run_lengths_train_alike() -> None:
    one = discs(64, 64, 0, seed=1)
    instances = one["instances"]
    polygons = PolygonMasks([[np.array([8.0, 8.0, 40.0, 8.0, 40.0, 30.0, 8.0, 30.0])]])
    del one["instances"]
    drawn = instances.__class__((64, 64), gt_boxes=polygons.get_bounding_boxes(), gt_classes=torch.tensor([1]))
    drawn.gt_masks = polygons
    encoded = mask_util.encode(np.asfortranarray(instance_masks(drawn)[0].numpy()))
    decoded = instances.__class__((64, 64), gt_classes=torch.tensor([1]))
    decoded.gt_masks = instances.gt_masks.__class__(torch.as_tensor(mask_util.decode(encoded)).bool()[None])
    model = mask2former_model(BASE)
    found = []
    for annotation in (drawn, decoded):
        torch.manual_seed(0)
        found.append(model([{**one, "instances": annotation}])["loss_mask"])
    assert found[0] > 0 and torch.equal(found[0], found[1])


@pytest.mark.parametrize("resize_first", ["True", "False"])
def test_outputs_are_what_the_config_asks_for(resize_first: str) -> None:
    model = mask2former_model(
        BASE,
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "True",
        "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "False",
        "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", resize_first,
    ).eval()  # fmt: skip
    with torch.no_grad():
        results = model([{**discs(64, 90, 2, seed=1), "height": 50, "width": 71}, discs(60, 64, 0, seed=2)])
    assert [set(result) for result in results] == [{"sem_seg"}, {"sem_seg"}]
    assert [tuple(result["sem_seg"].shape) for result in results] == [(3, 50, 71), (3, 60, 64)]


@pytest.mark.parametrize(
    "key,value",
    [
        ("MODEL.MASK_FORMER.PRE_NORM", "True"),
        ("MODEL.MASK_FORMER.DEC_LAYERS", "0"),
        ("MODEL.MASK_FORMER.OVERSAMPLE_RATIO", "0.5"),
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "StandardTransformerDecoder"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3']"),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES", "['res4', 'res5']"),
    ],
)
def test_values_that_do_not_fit_are_refused(key: str, value: str) -> None:
    with pytest.raises(UserError, match=key.rsplit(".", 1)[1]):
        mask2former_model(BASE, key, value)


def test_panoptic_results_need_a_data_set_that_knows_things() -> None:
    panoptic = ("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True", "DATASETS.TRAIN", "()", "DATASETS.TEST", "()")
    with pytest.raises(UserError, match="PANOPTIC_ON"):
        mask2former_model(BASE, *panoptic)


def test_projections_between_decoders_appear_where_widths_differ() -> None:
    model = mask2former_model(BASE, "MODEL.MASK_FORMER.HIDDEN_DIM", "64", "MODEL.MASK_FORMER.NHEADS", "4")
    assert isinstance(model, MaskFormer)
    projections = model.sem_seg_head.predictor.input_proj
    assert [tuple(one.weight.shape) for one in projections] == [(64, 32, 1, 1)] * 3
    assert torch.isfinite(torch.stack(list(model([discs(64, 64, 1, seed=1)]).values()))).all()


def test_published_yaml_loads(tmp_path: Path) -> None:
    """The keys of the published instance recipe, with those that its own model does not read either."""
    path = tmp_path / "published.yaml"
    path.write_text(
        """
MODEL:
  META_ARCHITECTURE: "MaskFormer"
  BACKBONE: {FREEZE_AT: 0, NAME: "build_resnet_backbone"}
  RESNETS:
    {DEPTH: 50, STEM_TYPE: "basic", STEM_OUT_CHANNELS: 64, STRIDE_IN_1X1: False, RES5_MULTI_GRID: [1, 1, 1],
     OUT_FEATURES: ["res2", "res3", "res4", "res5"]}
  SEM_SEG_HEAD:
    {NAME: "MaskFormerHead", IGNORE_VALUE: 255, NUM_CLASSES: 80, LOSS_WEIGHT: 1.0, CONVS_DIM: 256, MASK_DIM: 256, NORM: "GN",
     PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder", IN_FEATURES: ["res2", "res3", "res4", "res5"], COMMON_STRIDE: 4,
     DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: ["res3", "res4", "res5"], TRANSFORMER_ENC_LAYERS: 6,
     DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS: 4, DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: 8}
  MASK_FORMER:
    {TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder", TRANSFORMER_IN_FEATURE: "multi_scale_pixel_decoder",
     DEEP_SUPERVISION: True, NO_OBJECT_WEIGHT: 0.1, CLASS_WEIGHT: 2.0, MASK_WEIGHT: 5.0, DICE_WEIGHT: 5.0,
     HIDDEN_DIM: 256, NUM_OBJECT_QUERIES: 100, NHEADS: 8, DROPOUT: 0.0, DIM_FEEDFORWARD: 2048, ENC_LAYERS: 0,
     PRE_NORM: False, ENFORCE_INPUT_PROJ: False, SIZE_DIVISIBILITY: 32, DEC_LAYERS: 10, TRAIN_NUM_POINTS: 12544,
     OVERSAMPLE_RATIO: 3.0, IMPORTANCE_SAMPLE_RATIO: 0.75,
     TEST: {SEMANTIC_ON: False, INSTANCE_ON: True, PANOPTIC_ON: False, OVERLAP_THRESHOLD: 0.8,
            OBJECT_MASK_THRESHOLD: 0.8}}
"""
    )
    loaded = load_config(str(path)).cfg.MODEL.MASK_FORMER
    ours = load_config(str(Path(__file__).parents[3] / "configs" / BASE)).cfg.MODEL.MASK_FORMER
    assert loaded == ours
