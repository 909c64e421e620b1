"""Reading configs: every mistake is named. The shipped files are in test_recipes.py."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import get_cfg, load_config, load_keys
from adet_iuq.data import fill_class_counts
from adet_iuq.data.registration.class_counts import class_counts
from adet_iuq.errors import UserError
from adet_iuq.evaluation.lvis import MAX_DETECTIONS
from helpers.golden import REPOSITORY


def test_lvis_recipe_gives_what_the_metrics_and_the_data_ask_for() -> None:
    cfg = load_config(str(REPOSITORY / "configs/SOLOv2/LVIS_R50_3x_iuq.yaml")).cfg
    assert cfg.MODEL.SOLOV2.NUM_CLASSES == class_counts(cfg.DATASETS.TRAIN[0])[0] == 1203
    assert cfg.MODEL.SOLOV2.MAX_PER_IMG == MAX_DETECTIONS < cfg.MODEL.SOLOV2.NMS_PRE
    assert cfg.MODEL.SOLOV2.UPDATE_THR <= cfg.MODEL.SOLOV2.SCORE_THR <= 1e-3
    assert (cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD) == ("RepeatFactorTrainingSampler", 0.001)
    epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / 99_388
    assert 36 <= epochs < 36.1


def test_explicit_keys_come_from_files_and_overrides() -> None:
    loaded = load_config(str(REPOSITORY / "configs/CondInst/R50_1x.yaml"), ["MODEL.FCOS.NUM_CLASSES", "5"])
    assert {"MODEL.FCOS.NUM_CLASSES", "MODEL.RESNETS.DEPTH", "MODEL.META_ARCHITECTURE"} <= loaded.explicit
    assert "MODEL.FCOS.NORM" not in loaded.explicit
    assert loaded.overridden == {"MODEL.FCOS.NUM_CLASSES"}
    assert loaded.cfg.MODEL.FCOS.NUM_CLASSES == 5


@pytest.mark.parametrize(
    "opts,words",
    [
        (["MODEL.FCOS.NUM_CLASES", "5"], r"MODEL\.FCOS\.NUM_CLASES .*does not exist.*MODEL\.FCOS\.NUM_CLASSES"),
        (["NUM_CLASSES", "5"], r"MODEL\.FCOS\.NUM_CLASSES"),
        (["MODEL.FCOS", "5"], "is a section"),
        (["SOLVER.BASE_LR"], "pairs"),
        (["SOLVER.MAX_ITER", "many"], r"SOLVER\.MAX_ITER.*'many'.*int"),
        (["MODEL.MOBILENET", "True"], "MOBILENET"),
        (["TEST.PRECISE_BN.ENABLED", "True"], r"TEST\.PRECISE_BN\.ENABLED is not supported"),
        (["INPUT.DEEP_IMAGES", "foo"], r"INPUT\.DEEP_IMAGES is 'foo'; it can be 'dtype'"),
    ],
)
def test_wrong_overrides_are_explained(opts: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(None, opts)


def test_numbers_may_be_written_plainly() -> None:
    cfg = load_config(None, ["SOLVER.BASE_LR", "1e-4", "MODEL.IUQ.EQUI.WEIGHT", "3"]).cfg
    assert cfg.SOLVER.BASE_LR == 1e-4 and cfg.MODEL.IUQ.EQUI.WEIGHT == 3.0


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_config(str(tmp_path / "nowhere.yaml"))
    child = tmp_path / "child.yaml"
    child.write_text('_BASE_: "parent.yaml"\n')
    with pytest.raises(UserError, match=r"parent\.yaml.*_BASE_ of .*child\.yaml"):
        load_config(str(child))
    child.write_text("MODEL: [1, 2\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(str(child))
    child.write_text("SOLVER:\n  BASE_LR: 1e-3\n  MAX_ITERS: 5\n")
    with pytest.raises(UserError, match=r"SOLVER\.MAX_ITERS \(in .*child\.yaml\).*SOLVER\.MAX_ITER"):
        load_config(str(child))


def test_keys_of_adelaidet_that_mean_nothing_here_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "adelai.yaml"
    file.write_text(
        "MODEL:\n  MOBILENET: False\n  CONDINST:\n    BOTTOM_PIXELS_REMOVED: 10\n"
        "  RESNETS:\n    DEFORM_INTERVAL: 3\n"  # of the published SOTR with deformable stages
    )
    load_config(str(file))
    for key in ("BOTTOM_PIXELS_REMOVED", "DEFORM_INTERVAL"):
        assert caplog.text.count(f"{key} (in") == 1


def add_own_config(cfg: CfgNode) -> None:
    cfg.MODEL.OWN = CfgNode()
    cfg.MODEL.OWN.NUM_CLASSES, cfg.MODEL.OWN.WIDTH = 80, 0.5


def add_more_config(cfg: CfgNode) -> None:
    cfg.MODEL.OWN.DEPTH = int(10 * cfg.MODEL.OWN.WIDTH)


def test_functions_add_keys_that_files_and_overrides_set(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("MODEL:\n  OWN:\n    WIDTH: 2\n")
    loaded = load_config(str(file), ["MODEL.OWN.DEPTH", "7"], [add_own_config, add_more_config])
    assert (loaded.cfg.MODEL.OWN.WIDTH, loaded.cfg.MODEL.OWN.DEPTH) == (2.0, 7)
    assert loaded.explicit == {"MODEL.OWN.WIDTH", "MODEL.OWN.DEPTH"}
    assert get_cfg(add_own_config).MODEL.OWN.WIDTH == 0.5 and "OWN" not in get_cfg().MODEL
    with pytest.raises(UserError, match=r"MODEL\.OWN\.WITH .*Did you mean MODEL\.OWN\.WIDTH"):
        load_config(None, ["MODEL.OWN.WITH", "2"], add_own_config)
    with pytest.raises(UserError, match="those of a project need --project"):
        load_config(str(file))


def test_class_counts_of_added_keys_are_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path))
    options = ["DATASETS.TRAIN", "('shapes_train',)", "DATASETS.TEST", "()", "DATASETS.SHAPES.NUM_TRAIN", "1"]
    loaded = load_config(None, options, add_own_config)
    fill_class_counts(loaded.cfg, loaded.overridden)
    assert loaded.cfg.MODEL.OWN.NUM_CLASSES == loaded.cfg.MODEL.FCOS.NUM_CLASSES < 80


def test_functions_that_add_no_keys_are_named() -> None:
    with pytest.raises(
        UserError, match=r"add_more_config \(.*test_config\.py, line \d+\) failed .*AttributeError: OWN"
    ):
        get_cfg([add_more_config, add_own_config])
    for wrong in ("add_own_config", 5, [None]):
        with pytest.raises(UserError, match=r"add_config is .*; it must be a function"):
            get_cfg(wrong)  # type: ignore[arg-type]


def test_a_look_ahead_needs_only_the_keys_that_it_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("MODEL:\n  DEVICE: cpu\n  OWN:\n    WIDTH: 2\nSOLVER:\n  MAX_ITER: 5\n")
    cfg = load_keys(
        ["MODEL.DEVICE", "DIST.TIMEOUT_MINUTES"], str(file), ["DIST.TIMEOUT_MINUTES", "3", "OWN", "1", "ODD"]
    )
    assert (cfg.MODEL.DEVICE, cfg.DIST.TIMEOUT_MINUTES) == ("cpu", 3.0)
    assert cfg.SOLVER.MAX_ITER == get_cfg().SOLVER.MAX_ITER
    with pytest.raises(UserError, match=r"DIST\.TIMEOUT_MINUTES"):
        load_keys(["DIST.TIMEOUT_MINUTES"], None, ["DIST.TIMEOUT_MINUTES", "long"])
