"""The base segmenter: inputs, targets, results; what goldens do not show."""

from pathlib import Path
from typing import Any

import ablate
import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import ImageList

from adet_iuq.checkpoint import Checkpointer
from adet_iuq.config import import_project, load_config
from adet_iuq.engine import Trainer
from adet_iuq.errors import UserError
from adet_iuq.modeling.layers import EncodedMasks
from helpers.scenes import discs

PROJECT = Path(__file__).parents[1]
MODULES = import_project(str(PROJECT))


def build(*options: str) -> Any:
    """A small SOLQ with other options."""
    config = str(PROJECT / "configs" / "R18_overfit.yaml")
    narrow = ["MODEL.DEVICE", "cpu", "MODEL.SOLQ.HIDDEN_DIM", "32", "MODEL.SOLQ.DEC_LAYERS", "1"]
    return build_model(load_config(config, [*narrow, *options], MODULES.add_config).cfg)


def test_results_have_masks_at_output_size_and_boxes_as_predicted(base: Any) -> None:
    inputs = {**discs(64, 96, 3, seed=1), "height": 100, "width": 150}
    found = base.eval()([inputs])[0]["instances"]
    assert found.image_size == (100, 150) and found.pred_masks.shape == (30, 100, 150)
    assert found.pred_masks.dtype == torch.bool and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.pred_classes.min() >= 0 and found.pred_classes.max() < 3
    with base.encoding_masks():
        encoded = base([inputs])[0]["instances"].pred_masks
    assert isinstance(encoded, EncodedMasks) and torch.equal(encoded.decoded(), found.pred_masks)


def test_a_mask_lies_in_its_box(base: Any) -> None:
    """A vector that is the target of a disc, and the disc's box, give the disc."""
    inputs = discs(96, 128, 3, seed=3)
    target = base.targets([inputs], (96, 128))[0]
    logits = torch.full((3, 3), -9.0)
    logits[torch.arange(3), target.labels] = torch.tensor([3.0, 2.0, 1.0])
    found = base.results(logits, target.boxes, target.vectors, (96, 128))
    assert found.pred_classes[:3].tolist() == target.labels.tolist()
    masks = inputs["instances"].gt_masks.tensor
    overlap = (found.pred_masks[:3] & masks).flatten(1).sum(1) / (found.pred_masks[:3] | masks).flatten(1).sum(1)
    assert (overlap > 0.95).all(), overlap


def test_other_images_of_a_batch_change_nothing_but_padding(base: Any) -> None:
    """With one size there is no padding, and each image is as if alone."""
    base.eval()
    inputs = [discs(64, 96, 3, seed=1), discs(64, 96, 2, seed=2)]
    together = [one["instances"] for one in base(inputs)]
    for one, found in zip(inputs, together, strict=True):
        alone = base([one])[0]["instances"]
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-5)


def test_padded_cells_are_no_values(base: Any) -> None:
    """What stands in the padding of a map reaches no cell of the image; only GroupNorm looks at it."""
    base.eval()
    images = ImageList.from_tensors([torch.randn(3, 64, 96), torch.randn(3, 96, 64)])
    maps = [torch.randn(2, 32, side, side) for side in (12, 6, 3, 2)]
    geometry = MODULES.maps.MapGeometry.of(images.image_sizes, maps, images.tensor)
    changed = [one + 5 * ~inside[:, None] for one, inside in zip(maps, geometry.inside, strict=True)]
    with torch.no_grad():
        before, after = (base.transformer.encode(one, geometry) for one in (maps, changed))
    inside = ~geometry.padding
    assert 0 < inside.sum() < inside.numel()
    torch.testing.assert_close(after[inside], before[inside])
    assert not torch.allclose(after[~inside], before[~inside])


def test_cells_of_all_maps_have_their_place_in_the_image(base: Any) -> None:
    images = ImageList.from_tensors([torch.zeros(3, 64, 96), torch.zeros(3, 96, 64)])
    maps = [torch.zeros(2, 1, side, side) for side in (12, 6)]
    geometry = MODULES.maps.MapGeometry.of(images.image_sizes, maps, images.tensor)
    references = geometry.references()
    assert references.shape == (2, 180, 2, 2)
    # Cell (1, 2) of the finest map of the first image, 8 of whose 12 rows are no padding.
    torch.testing.assert_close(references[0, 12 + 2, 0], torch.tensor([2.5 / 12, 1.5 / 12]))
    torch.testing.assert_close(geometry.valid_ratios()[0, 0], torch.tensor([1.0, 8 / 12]))


def test_boxes_keep_their_precision_under_autocast(base: Any) -> None:
    """Boxes are what the heads make of the states, computed in float32, from points that are not rounded either."""
    torch.nn.init.normal_(base.bbox_embed[0].layers[-1].weight)
    images = base.preprocess(scenes := [discs(64, 96, 3, seed=1)])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = base.decode(images)
        losses = base(scenes)
    positions = base.query_embed.weight.chunk(2, dim=1)[0]
    points = MODULES.boxes.logit(base.transformer.reference_points(positions).sigmoid())
    expected = base.bbox_embed[0](decoded.states[0].float())
    expected[..., :2] += points
    torch.testing.assert_close(decoded.boxes[0], expected.sigmoid(), rtol=1e-6, atol=1e-6)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_category_ids_number_the_logits(base: Any) -> None:
    """Published weights have a logit for each id; targets and results count classes."""
    MetadataCatalog.get("solq_ids").thing_dataset_id_to_contiguous_id = {7: 1, 2: 0, 5: 2}
    model = build("MODEL.SOLQ.CATEGORY_IDS", "True", "DATASETS.TRAIN", "('solq_ids',)")
    assert model.class_embed[0].weight.shape[0] == 8
    target = model.targets([discs(64, 64, 3, seed=1)], (64, 64))[0]
    assert target.labels.tolist() == [2, 7, 5]
    logits = torch.full((3, 8), -9.0)
    logits[torch.arange(3), target.labels] = 3.0
    logits[:, 0] = 9.0  # no category
    found = model.results(logits, target.boxes, target.vectors, (64, 64))
    assert sorted(found.pred_classes[:3].tolist()) == [0, 1, 2] and found.scores[0] < 0.99


def test_category_ids_need_a_data_set_that_tells_them() -> None:
    with pytest.raises(UserError, match="solq_no_ids tells none"):
        build("MODEL.SOLQ.CATEGORY_IDS", "True", "DATASETS.TRAIN", "('solq_no_ids',)")


def test_untrained_scores_boxes_and_vectors_start_where_they_are_published(base: Any) -> None:
    states = torch.randn(1, 5, 32)
    torch.testing.assert_close(base.vector_embed[0](states)[0, 0, :4], torch.tensor([0.0, 0.0, -2.0, -2.0]))
    torch.testing.assert_close(base.bbox_embed[0](states)[0, 0], torch.tensor([0.0, 0.0, -2.0, -2.0]))
    assert base.bbox_embed[1](states).abs().max() == 0
    torch.testing.assert_close(base.class_embed[1].bias.sigmoid(), torch.full((3,), 0.01))


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(UserError, match="DEPTH 35"):
        MODULES.TorchvisionResNet(35, "BN", 0)
    with pytest.raises(UserError, match="GN"):
        MODULES.TorchvisionResNet(50, "GN", 0)


@pytest.mark.parametrize(("freeze_at", "frozen"), [(0, set()), (1, {"conv1", "bn1"}), (2, {"conv1", "bn1", "layer1"})])
def test_frozen_parts_of_the_body(freeze_at: int, frozen: set[str]) -> None:
    network = MODULES.TorchvisionResNet(18, "BN", freeze_at)
    assert {name.split(".")[0] for name, one in network.named_parameters() if not one.requires_grad} == frozen


@pytest.mark.parametrize("path", sorted((PROJECT / "configs").glob("*_50ep*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_says_how_it_is_launched_and_names_a_model(path: Path) -> None:
    cfg = load_config(str(path), [], MODULES.add_config).cfg
    launch = f"# python tools/train_net.py --project projects/SOLQ --config-file projects/SOLQ/configs/{path.name}"
    assert launch in path.read_text() and f"output/SOLQ_{path.stem}" == cfg.OUTPUT_DIR
    kind = {"iuq": "SOLQIUQ", "pixels": "PixelSOLQ"}.get(path.stem.rsplit("_", 1)[-1], "SOLQ")
    assert kind == cfg.MODEL.META_ARCHITECTURE and kind in META_ARCH_REGISTRY


@pytest.mark.parametrize("name", ["R50_50ep", "R101_50ep", "SwinL_50ep"])
def test_method_and_control_differ_in_the_method_only(name: str) -> None:
    recipes = [
        load_config(str(PROJECT / "configs" / f"{name}_{kind}.yaml"), [], MODULES.add_config).cfg
        for kind in ("iuq", "pixels")
    ]
    for cfg in recipes:
        cfg.OUTPUT_DIR = cfg.MODEL.META_ARCHITECTURE = ""
        cfg.MODEL.IUQ = CfgNode()
    assert recipes[0] == recipes[1]


def test_every_arm_of_the_study_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main([str(PROJECT / "configs" / "Studies" / "table3_embryos.yaml"), "--check"]) == 0
    assert "18 runs" in capsys.readouterr().out


def test_three_rates_as_published() -> None:
    cfg = load_config(str(PROJECT / "configs" / "R50_50ep.yaml"), [], MODULES.add_config).cfg
    model = build()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = Trainer.build_optimizer(cfg, model).param_groups
    slow = ("backbone.0", "reference_points", "sampling_offsets")
    for group in groups:
        assert group["weight_decay"] == 1e-4
        for parameter in group["params"]:
            expected = 2e-5 if any(part in names[parameter] for part in slow) else 2e-4
            assert group["lr"] == pytest.approx(expected), names[parameter]
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_torchvisions_own_weights_start_a_training(tmp_path: Path) -> None:
    """A classifier's file, bare and under its own names, fits below backbone.0.body."""
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    model = build()
    Checkpointer(model).load(str(tmp_path / "resnet18.pth"))
    loaded = model.state_dict()["backbone.0.body.layer3.1.conv2.weight"]
    assert torch.equal(loaded, network.layer3[1].conv2.weight)
