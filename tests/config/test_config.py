"""Reading configs: every mistake is named. The shipped files are in test_recipes.py."""

from pathlib import Path

import pytest

import adet_iuq.modeling  # noqa: F401 (registers the models)
from adet_iuq.config import load_config
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
