"""Maps of single queries, against a loop over cells, for every segmenter with small random weights."""

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from adet_iuq.errors import UserError
from adet_iuq.evaluation.queries import undisturbed
from adet_iuq.iuq import Pixels, Queries
from adet_iuq.modeling import IUQMetaArch
from adet_iuq.visualization.query_maps import (
    FIRES,
    HeatMap,
    as_truth,
    detect,
    empty_truth,
    num_sharing,
    pixel_grid,
    query_maps,
)
from helpers.grid_checks import CASES
from helpers.scenes import discs, mask2former_model, small_model

SEGMENTERS: dict[str, Any] = {
    "condinst": lambda: small_model("CondInst/R50_1x_iuq.yaml"),
    "condinst reference": lambda: small_model("CondInst/R50_1x_iuq.yaml", "MODEL.IUQ.INTER.REL_COORDS", "instance"),
    "condinst no terms": lambda: small_model(
        "CondInst/R50_1x_iuq.yaml", "MODEL.IUQ.INTER.ENABLED", "False", "MODEL.IUQ.EQUI.ENABLED", "False"
    ),
    "solov2": lambda: CASES["solov2"].model(CASES["solov2"].iuq_recipe),
    "sotr": lambda: CASES["sotr"].model(CASES["sotr"].iuq_recipe),
    "mask2former": lambda: mask2former_model("Mask2Former/R50_50ep_iuq.yaml"),
}


def by_hand(model: IUQMetaArch, image: Tensor, truth: Instances, instance: int, others: list[Tensor]) -> Any:
    """Probabilities of the instance's best query, cell by cell, over its own image and each of the others."""
    with undisturbed(model):
        torch.manual_seed(0)
        scene, _ = model.forward_scene([{"image": image, "instances": truth, "image_id": 0}])
        rows = [n for n in range(len(scene.queries)) if scene.queries.target_index[n] == instance]
        cells = model.mask_cells(scene.masks[0], (scene.features.shape[2], scene.features.shape[3]))[instance]
        means = []
        for n in rows:
            logits = model.retrieve_map(scene.queries.select(slice(n, n + 1)), scene.features)[0]
            means.append(logits.sigmoid()[cells].mean())
        query = scene.queries.select(slice(rows[int(np.argmax(means))], rows[int(np.argmax(means))] + 1))
        own = model.retrieve_map(query, scene.features)[0].sigmoid()
        maps = [within(model, own, image)]
        for other in others:
            there, _ = model.forward_scene([{"image": other, "instances": empty_truth(other), "image_id": 1}])
            found = torch.zeros(there.features.shape[2:])
            for row in range(found.shape[0]):
                for column in range(found.shape[1]):
                    context = {
                        name: values[0][instance : instance + 1] for name, values in scene.instance_context.items()
                    }
                    found[row, column] = one_cell(model, query, there.features[:, :, row, column], row, column, context)
            maps.append(within(model, found, other))
    return maps, len(rows)


def one_cell(
    model: IUQMetaArch, query: Queries, feature: Tensor, row: int, column: int, context: dict[str, Tensor]
) -> Tensor:
    nominal = model.pixel_stride / 2 if model.pixel_nominal_offset is None else model.pixel_nominal_offset
    place = torch.tensor([[model.pixel_stride * column + nominal, model.pixel_stride * row + nominal]])
    return model.retrieve(query, Pixels(feature, place, torch.tensor([1]), context)).sigmoid().squeeze()


def within(model: IUQMetaArch, found: Tensor, image: Tensor) -> np.ndarray:
    """The cells whose supervised pixel lies in the image."""
    rows, columns = (
        sum(model.pixel_stride * i + model.pixel_offset <= length - 1 for i in range(cells))
        for length, cells in zip(image.shape[1:], found.shape, strict=True)
    )
    return found[:rows, :columns].numpy()


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_maps_equal_a_loop_over_cells(kind: str) -> None:
    """Other images may have any size; their padding is no part of the maps, and nothing of the model changes."""
    model = SEGMENTERS[kind]().train()
    sample, others = discs(90, 121, 3, 1), [discs(64, 50, 1, 2)["image"], discs(75, 140, 2, 3)["image"]]
    with torch.no_grad():
        wanted, matched = by_hand(model, sample["image"], sample["instances"], 1, others)
    state = torch.get_rng_state()
    found = query_maps(model, sample["image"], sample["instances"], 1, [pixel_grid(model, other) for other in others])
    assert model.training and torch.get_rng_state().equal(state)
    assert found.num_queries == matched >= 1
    for heat, expected in zip([found.own, *found.others], wanted, strict=True):
        assert heat.probabilities.shape == expected.shape
        np.testing.assert_allclose(heat.probabilities, expected, rtol=1e-4, atol=1e-5)
        assert heat.fire_rate == pytest.approx(100 * (heat.probabilities > FIRES).mean())


PROJECTS: dict[str, Any] = {
    "Minimal": lambda conftest: conftest.small_model("shapes_iuq.yaml"),
    "SparseInst": lambda conftest: conftest.built("R50_giam_iuq", conftest.SMALL),
    "SOLQ": lambda conftest: conftest.small_model("SOLQIUQ"),
}


@pytest.mark.parametrize("name", PROJECTS)
def test_projects_are_asked_the_same_way(name: str) -> None:
    model = PROJECTS[name](importlib.import_module(f"projects.{name}.tests.conftest"))
    sample, other = discs(90, 141, 3, 1), discs(130, 70, 1, 2)["image"]
    with torch.no_grad():
        wanted, matched = by_hand(model, sample["image"], sample["instances"], 1, [other])
    found = query_maps(model, sample["image"], sample["instances"], 1, [pixel_grid(model, other)])
    assert found.num_queries == matched
    for heat, expected in zip([found.own, *found.others], wanted, strict=True):
        np.testing.assert_allclose(heat.probabilities, expected, rtol=1e-4, atol=1e-5)


EAGER: dict[str, Any] = {  # every detection counts, as random weights are certain of none
    "condinst": lambda: small_model("CondInst/R50_1x_iuq.yaml", "MODEL.FCOS.INFERENCE_TH_TEST", "0.0"),
    "solov2": lambda: CASES["solov2"].model(CASES["solov2"].iuq_recipe, "MODEL.SOLOV2.SCORE_THR", "0.0"),
    "mask2former": SEGMENTERS["mask2former"],
}


@pytest.mark.parametrize("kind", EAGER)
def test_detections_serve_as_the_instances(kind: str) -> None:
    model = EAGER[kind]()
    image = discs(96, 128, 3, 1)["image"]
    found = detect(model, image, 0.0)
    assert len(found) and found.pred_masks.shape[1:] == (96, 128)
    assert found.scores.diff().le(0).all() and found.pred_masks.flatten(1).any(1).all()
    truth = as_truth(found)
    maps = query_maps(model, image, truth, 0, [pixel_grid(model, image)])
    assert maps.own.probabilities.shape == maps.others[0].probabilities.shape


@pytest.mark.parametrize("kind", ["condinst", "solov2"])
def test_of_several_queries_the_one_that_finds_the_instance_best_is_shown(kind: str) -> None:
    model, sample = SEGMENTERS[kind](), discs(96, 128, 1, 1)
    masks = torch.zeros(1, 96, 128, dtype=torch.bool)
    masks[0, 16:80, 24:104] = True
    truth = sample["instances"]
    truth.gt_masks = BitMasks(masks)
    truth.gt_boxes = truth.gt_masks.get_bounding_boxes()
    wanted, matched = by_hand(model, sample["image"], truth, 0, [])
    found = query_maps(model, sample["image"], truth, 0, [])
    assert found.num_queries == matched > 1
    np.testing.assert_allclose(found.own.probabilities, wanted[0], rtol=1e-4, atol=1e-5)


def test_an_instance_whose_queries_went_to_another_one_is_asked_alone() -> None:
    """Two instances on one spot: FCOS gives the locations to one of them."""
    model, sample = SEGMENTERS["condinst"](), discs(96, 128, 1, 1)
    twice = Instances.cat([sample["instances"], sample["instances"]])
    with undisturbed(model):
        scene, _ = model.forward_scene([{**sample, "instances": twice}])
    assert len(scene.queries.target_index.unique()) == 1
    first, second = (query_maps(model, sample["image"], twice, number, []) for number in (0, 1))
    np.testing.assert_array_equal(first.own.probabilities, second.own.probabilities)


def test_an_instance_without_a_query_is_an_error_for_people() -> None:
    model, sample = SEGMENTERS["condinst"](), discs(96, 128, 1, 1)
    truth = sample["instances"]
    truth.gt_masks = BitMasks(torch.zeros(1, 96, 128, dtype=torch.bool))
    truth.gt_boxes = Boxes(torch.tensor([[500.0, 500.0, 501.0, 501.0]]))
    with pytest.raises(UserError, match="no query to this instance"):
        query_maps(model, sample["image"], truth, 0, [])


def test_a_heat_map_lies_where_its_cells_are_supervised() -> None:
    heat = HeatMap(np.array([[0.0, 1.0], [0.2, 0.6]], dtype=np.float32), stride=4, offset=2.0)
    pixels = heat.at_pixels((8, 8))
    assert (pixels[2, 2], pixels[2, 6], pixels[6, 2], pixels[6, 6]) == pytest.approx((0.0, 1.0, 0.2, 0.6), abs=1e-6)
    assert pixels[2, 4] == pytest.approx(0.5, abs=0.02) and pixels[0, 7] == pytest.approx(1.0)
    assert heat.fire_rate == 50
    nothing = HeatMap(np.zeros((0, 3), dtype=np.float32), stride=4, offset=2.0)
    assert nothing.fire_rate == 0 and not nothing.at_pixels((1, 9)).any()


def test_detections_that_share_a_mask() -> None:
    """Of three with the mask one is the right one; the fourth overlaps by half only."""
    masks = torch.zeros(4, 10, 20, dtype=torch.bool)
    masks[:2, :, :10], masks[2, :, :9], masks[3, :5, :10] = True, True, True
    found = Instances((10, 20))
    found.pred_masks = masks
    assert num_sharing(found, masks[0]) == 2
    assert num_sharing(found, masks[3]) == 0
    assert num_sharing(found[:0], masks[0]) == 0
    assert math.isclose(float((masks[3] & masks[0]).sum() / (masks[3] | masks[0]).sum()), 0.5)
