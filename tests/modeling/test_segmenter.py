"""The base class of segmenters: its defaults, its template forward, and what every built-in segmenter declares."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adet_iuq.config import get_cfg
from adet_iuq.errors import UserError
from adet_iuq.iuq import IUQCriterion, PixelMemory, Pixels, Queries, Scene
from adet_iuq.modeling import IUQMetaArch, Segmenter, TrainingPass, Views, content_size, output_size, settings_from
from helpers.grid_checks import grid_options
from helpers.scenes import SMALL_MASK2FORMER, discs, small_model

# Recipe, overrides; mask loss and its ceiling; pixels: channels, stride, offset.
DECLARED: dict[str, tuple[str, tuple[str, ...], tuple[str, float], tuple[int, int, float]]] = {
    "CondInst": ("CondInst/R50_1x_iuq.yaml", (), ("loss_mask", 1.0), (8, 8, 6)),
    "SOLOv2": ("SOLOv2/R50_1x_iuq.yaml", grid_options("SOLOV2"), ("loss_ins", 3.0), (0, 4, 1.5)),
    "SOTR": ("SOTR/R50_iuq.yaml", grid_options("SOTR"), ("loss_ins", 3.0), (0, 4, 1.5)),
    "MaskFormer": ("Mask2Former/R50_50ep_iuq.yaml", tuple(SMALL_MASK2FORMER), ("loss_dice", 5.0), (0, 4, 1.5)),
}


class Least(Segmenter):
    """No more than a segmenter must have."""

    def __init__(self) -> None:
        super().__init__(pixel_mean=[10.0, 20.0, 30.0], pixel_std=[1.0, 2.0, 4.0], size_divisibility=16)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_pass(self, batched_inputs: list[dict[str, Any]]) -> TrainingPass:
        features = self.preprocess(batched_inputs).tensor[:, :, ::4, ::4] * self.weight
        none = torch.zeros(0, dtype=torch.long)
        sizes = [content_size(inputs) for inputs in batched_inputs]
        return TrainingPass({"loss_mask": features.mean()}, features, features[:0, :, 0, 0], none, none, [], sizes)

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"size": output_size(inputs, inputs["image"].shape[1:])} for inputs in batched_inputs]


class LeastIUQ(IUQMetaArch, Least):
    def retrieve(self, queries: Queries, pixels: Pixels) -> Tensor:
        return queries.embeddings @ pixels.features.T

    def retrieve_map(self, queries: Queries, maps: Tensor) -> Tensor:
        return torch.einsum("qd,qdhw->qhw", queries.embeddings, maps[queries.image_index])

    def mask_loss(self, logits: Tensor, scene: Scene, valid: Tensor) -> Tensor:
        return logits.sum()


def test_forward_is_losses_in_training_and_results_in_evaluation() -> None:
    model, inputs = Least(), [{"image": torch.full((3, 20, 33), 40.0), "height": 7}]
    assert model(inputs).keys() == {"loss_mask"}
    assert model.eval()(inputs) == [{"size": (7, 33)}]


def test_images_are_normalised_and_padded_to_the_divisibility() -> None:
    images = Least().preprocess([{"image": torch.full((3, 20, 33), 40.0)}])
    assert images.tensor.shape == (1, 3, 32, 48) and images.image_sizes == [(20, 33)]
    assert images.tensor[0, :, 0, 0].tolist() == [30.0, 10.0, 2.5] and images.tensor[0, :, 25, 0].abs().sum() == 0


def test_the_content_of_a_padded_image_is_what_the_mapper_says() -> None:
    image = torch.zeros(3, 64, 64)
    assert content_size({"image": image}) == (64, 64) and content_size({"image": image, "content_size": (9, 5)}) == (
        9,
        5,
    )


def test_defaults_are_a_whole_contract() -> None:
    model = Least()
    assert model.training_state() == model.iuq_state() == {}
    model.load_training_state({})
    model.load_iuq_state({})
    model.set_iteration(7)
    assert model.iteration == 7 and model.optional_checkpoint_keys == () and model.bytes_per_pair == 0
    with model.pictures_of(4):
        assert model.images_per_picture == 4
    assert model.images_per_picture == 1
    assert (model.mask_loss_name, model.mask_loss_ceiling, model.mask_loss_collapsed) == ("loss_mask", 1.0, 0.95)
    assert (model.pixel_dim, model.pixel_stride, model.pixel_offset) == (256, 4, 1.5)
    cfg = get_cfg()
    assert Least.images_per_batch(cfg) == cfg.SOLVER.IMS_PER_BATCH and Least.accumulation_caveat(cfg) == ""
    with pytest.raises(NotImplementedError, match="Least cannot be built from a config"):
        Least.from_config(cfg)


def test_a_class_that_lacks_a_pass_or_a_retrieval_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="inference"):
        type("Half", (Segmenter,), {"training_pass": lambda *_: None})()
    with pytest.raises(TypeError, match="retrieve"):
        type("HalfIUQ", (IUQMetaArch, Least), {})(criterion=IUQCriterion(), views=Views())


def test_a_memory_for_other_pixels_is_refused() -> None:
    with pytest.raises(UserError, match="built for 8 numbers per pixel, but LeastIUQ has pixels of 256"):
        LeastIUQ(criterion=IUQCriterion(memory=PixelMemory(8, capacity=10)), views=Views())


@pytest.mark.parametrize("low,high", [(0.0, 1.0), (0.9, 0.8), (0.5, 1.2)])
def test_views_that_cannot_be_drawn_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="0 < crop_min <= crop_max <= 1"):
        Views(crop_min=low, crop_max=high)
    cfg = get_cfg()
    cfg.MODEL.IUQ.EQUI.CROP_MIN, cfg.MODEL.IUQ.EQUI.CROP_MAX = low, high
    with pytest.raises(UserError, match=r"MODEL\.IUQ\.EQUI: A crop keeps"):
        settings_from(Views, cfg.MODEL.IUQ.EQUI, "MODEL.IUQ.EQUI")


def test_a_memory_of_more_than_a_pass_tells_is_refused() -> None:
    memory = PixelMemory(3, capacity=10, context={"depth": ()})
    model = type("Shallow", (LeastIUQ,), {"pixel_dim": 3})(criterion=IUQCriterion(memory=memory), views=Views())
    with pytest.raises(UserError, match=r"keeps \['depth'\].* Shallow gives only \[\] "):
        model.forward_scene([{"image": torch.zeros(3, 20, 33), "image_id": 1}])


def test_the_inter_scene_term_needs_image_ids() -> None:
    """A position in the batch would take a view for a foreign image, and one image for another in the next batch."""
    inputs: list[dict[str, Any]] = [{"image": torch.zeros(3, 20, 33), "image_id": 1}, {"image": torch.zeros(3, 20, 33)}]
    small = type("Small", (LeastIUQ,), {"pixel_dim": 3})
    model = small(criterion=IUQCriterion(memory=PixelMemory(3, capacity=10)), views=Views())
    with pytest.raises(UserError, match=r"no `image_id`.*add the integer image_id"):
        model(inputs)
    with pytest.raises(UserError, match="integer image ids"):
        model([{**inputs[0], "image_id": "000001.jpg"}])
    scene, _ = small(criterion=IUQCriterion(), views=Views()).forward_scene(inputs)
    assert scene.image_ids.tolist() == [1, -1]


def test_settings_are_filled_by_name() -> None:
    cfg = get_cfg()
    cfg.MODEL.IUQ.EQUI.CROP_MIN = 0.75
    assert settings_from(Views, cfg.MODEL.IUQ.EQUI, "MODEL.IUQ.EQUI") == Views(crop_min=0.75)


@pytest.mark.parametrize("name", DECLARED)
def test_built_in_segmenters_declare_what_a_pass_gives(name: str) -> None:
    recipe, overrides, mask_loss, pixels = DECLARED[name]
    model = small_model(recipe, *overrides)
    assert isinstance(model, IUQMetaArch) and type(model).__name__ == f"{name}IUQ"
    inputs = [discs(64, 96, 3, seed=1), {**discs(96, 64, 2, seed=2), "content_size": (80, 60)}]
    done = model.training_pass(inputs)
    assert (model.mask_loss_name, model.mask_loss_ceiling) == mask_loss and mask_loss[0] in done.losses
    assert done.features.shape[:2] == (2, model.pixel_dim) and model.pixel_dim == (pixels[0] or model.pixel_dim)
    assert (model.pixel_stride, model.pixel_offset) == pixels[1:]
    assert done.features.shape[2] == model.preprocess(inputs).tensor.shape[2] // model.pixel_stride
    assert done.image_sizes == [(64, 96), (80, 60)]
    assert [mask.shape[1:] for mask in done.masks] == [(64, 96), (96, 64)]
    count = len(done.embeddings)
    assert count > 0 and done.image_index.shape == done.target_index.shape == (count,)
    rows = torch.tensor([len(mask) for mask in done.masks])
    assert (done.target_index < rows[done.image_index]).all()
    assert all(len(value) == count for value in done.context.values())
    assert all([len(one) for one in value] == rows.tolist() for value in done.instance_context.values()), (
        done.instance_context.keys()
    )


# Caps of 3 detections, and thresholds that let everything pass.
CAPPED: dict[str, tuple[str, ...]] = {
    "CondInst": ("MODEL.FCOS.POST_NMS_TOPK_TEST", "3", "MODEL.FCOS.INFERENCE_TH_TEST", "0.0"),
    "SOLOv2": (
        "MODEL.SOLOV2.MAX_PER_IMG", "3", "MODEL.SOLOV2.SCORE_THR", "0.0", "MODEL.SOLOV2.UPDATE_THR", "0.0",
    ),
    "SOTR": ("MODEL.SOTR.MAX_PER_IMG", "3", "MODEL.SOTR.SCORE_THR", "0.0", "MODEL.SOTR.UPDATE_THR", "0.0"),
    "MaskFormer": ("TEST.DETECTIONS_PER_IMAGE", "3"),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_a_picture_of_several_images_may_have_more_detections(name: str) -> None:
    recipe, overrides, *_ = DECLARED[name]
    model = small_model(recipe, *overrides, *CAPPED[name]).eval()
    inputs = [{key: value for key, value in discs(128, 128, 3, seed=1).items() if key != "instances"}]
    with torch.no_grad():
        few = model(inputs)[0]["instances"]
        with model.pictures_of(4):
            more = model(inputs)[0]["instances"]
    assert len(few) == 3 < len(more) <= 12
    assert more.scores.sort(descending=True).values[:3].allclose(few.scores.sort(descending=True).values)
