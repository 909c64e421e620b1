"""What SparseInst brings besides the model: recipes, the study, the mapper with its crop, and the vd backbone."""

from pathlib import Path
from typing import Any

import ablate
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from PIL import Image

from adet_iuq.config import load_config
from adet_iuq.errors import UserError
from projects.SparseInst.config import add_config
from projects.SparseInst.mapper import SparseInstMapper
from projects.SparseInst.resnet_vd import ResNetVd, build_resnet_vd_backbone
from projects.SparseInst.tests.conftest import PROJECT

STUDY = PROJECT / "configs" / "Studies" / "table3_embryos.yaml"
RECIPES = sorted(path.stem for path in (PROJECT / "configs").glob("R*.yaml"))


def loaded(recipe: str, *overrides: str) -> CfgNode:
    return load_config(str(PROJECT / "configs" / f"{recipe}.yaml"), list(overrides), add_config).cfg


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_loads_and_says_how_to_launch_it(recipe: str) -> None:
    cfg = loaded(recipe)
    text = (PROJECT / "configs" / f"{recipe}.yaml").read_text()
    line = f"--project projects/SparseInst --config-file projects/SparseInst/configs/{recipe}.yaml"
    assert line in text and f"output/SparseInst_{recipe}" == cfg.OUTPUT_DIR
    assert ("SparseInstIUQ" if recipe.endswith("_iuq") else "SparseInst") == cfg.MODEL.META_ARCHITECTURE


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.endswith("_iuq")])
def test_an_iuq_recipe_differs_from_its_base_in_the_method_only(recipe: str) -> None:
    ours, base = loaded(recipe), loaded(recipe.removesuffix("_iuq"))
    for cfg in (ours, base):
        cfg.OUTPUT_DIR = cfg.MODEL.META_ARCHITECTURE = ""
        cfg.MODEL.IUQ = CfgNode()
    assert ours == base


def test_the_published_base_recipe() -> None:
    cfg = loaded("R50_giam")
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == ("ADAMW", 5e-5, 0.05)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (64, 270000, (210000, 250000))
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.GAMMA, cfg.SOLVER.CLIP_GRADIENTS.ENABLED) == (1000, 0.1, False)
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == list(range(416, 641, 32))
    assert cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice"
    assert (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (853, 640, 853)
    assert cfg.INPUT.FORMAT == "RGB" and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and cfg.INPUT.HFLIP_TRAIN


def test_every_arm_of_the_study_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main([str(STUDY), "--check"]) == 0
    assert "15 runs" in capsys.readouterr().out


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """An image of 500 x 600 with one box in the middle and a crowd."""
    Image.fromarray(np.zeros((500, 600, 3), np.uint8)).save(tmp_path / "image.png")
    box = {"bbox": [200, 200, 200, 100], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    one = {**box, "segmentation": [[200, 200, 400, 200, 400, 300, 200, 300]]}
    paths = {"file_name": str(tmp_path / "image.png"), "height": 500, "width": 600, "image_id": 1}
    return {**paths, "annotations": [one, {**one, "iscrowd": 1}]}


def samples(recipe: str, record: dict[str, Any], count: int) -> list[dict[str, Any]]:
    mapper = SparseInstMapper(loaded(recipe))
    return [mapper({**record, "sample_seed": seed}) for seed in range(count)]


def test_without_the_crop_images_are_flipped_and_resized(record: dict[str, Any]) -> None:
    found = samples("R50_giam", record, 20)
    shapes = [tuple(one["image"].shape[1:]) for one in found]
    assert {min(shape) for shape in shapes} <= set(range(416, 641, 32)) and len(set(shapes)) > 3
    assert all(abs(shape[1] / shape[0] - 1.2) < 0.01 for shape in shapes)
    assert all(len(one["instances"]) == 1 for one in found)


def test_every_second_image_is_cropped_and_boxes_follow_their_masks(record: dict[str, Any]) -> None:
    found = samples("R50_giam_aug", record, 60)
    whole = [abs(one["image"].shape[2] / one["image"].shape[1] - 1.2) < 0.01 for one in found]
    assert 15 <= sum(whole) <= 45
    for one in found:
        assert min(one["image"].shape[1:]) <= 640 and max(one["image"].shape[1:]) <= 853
        masks, boxes = one["instances"].gt_masks, one["instances"].gt_boxes
        assert torch.equal(boxes.tensor, masks.get_bounding_boxes().tensor)


def vd(**changes: Any) -> ResNetVd:
    options = {"out_features": ["res3", "res5"], "frozen_norms": True, "deformable": [False] * 4, "pretrained": False}
    torch.manual_seed(0)
    return ResNetVd(50, **{**options, **changes})


def test_deformable_blocks_begin_as_plain_ones() -> None:
    plain, deformable = vd().eval(), vd(deformable=[False, False, True, True]).eval()
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert missing and all("conv2_offset" in name for name in missing) and not unexpected
    assert plain.layer4[0].bn3.weight.min() == 1  # type: ignore[index, union-attr]  # the branch is heard
    x = torch.randn(1, 3, 64, 96)
    ours, theirs = deformable(x), plain(x)
    assert {name: tuple(one.shape) for name, one in ours.items()} == {"res3": (1, 512, 8, 12), "res5": (1, 2048, 2, 3)}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = deformable(x)
    sum(one.float().square().mean() for one in ours.values()).backward()  # type: ignore[union-attr]
    assert deformable.layer4[0].conv2_offset.weight.grad.abs().sum() > 0  # type: ignore[index, union-attr]


def test_the_vd_backbone_says_what_it_gives_and_lacks() -> None:
    shapes = vd(frozen_norms=False).output_shape()
    assert shapes == {"res3": ShapeSpec(channels=512, stride=8), "res5": ShapeSpec(channels=2048, stride=32)}
    with pytest.raises(UserError, match="res6"):
        vd(out_features=["res6"])
    for key, value in (("MODEL.BACKBONE.FREEZE_AT", "2"), ("MODEL.RESNETS.DEPTH", "18"), ("MODEL.RESNETS.NORM", "GN")):
        cfg = loaded("R50vd_giam_aug", key, value, "MODEL.TIMM.PRETRAINED", "False")
        with pytest.raises(UserError, match=key.replace(".", r"\.")):
            build_resnet_vd_backbone(cfg, ShapeSpec(channels=3))


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*words: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("projects.SparseInst.resnet_vd.timm.create_model", offline)
    with pytest.raises(UserError, match=r"resnet50d \(no route to host\). Set MODEL.TIMM.PRETRAINED False"):
        vd(pretrained=True)
