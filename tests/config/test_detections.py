"""One key for the number of results, whatever a segmenter calls its own."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode

from adet_iuq.config import get_cfg, load_config
from adet_iuq.config.detections import counted_detections
from adet_iuq.errors import UserError

WANTED = "TEST.DETECTIONS_PER_IMAGE"


def caps(cfg: CfgNode) -> tuple[int, int, int]:
    return cfg.MODEL.FCOS.POST_NMS_TOPK_TEST, cfg.MODEL.SOLOV2.MAX_PER_IMG, cfg.MODEL.SOTR.MAX_PER_IMG


def test_every_segmenter_follows_the_key_and_its_candidates_grow() -> None:
    cfg = load_config(None, [WANTED, "1000"]).cfg
    assert caps(cfg) == (1000, 1000, 1000) and counted_detections(cfg) == 1000
    assert cfg.MODEL.SOLOV2.NMS_PRE == 10 * get_cfg().MODEL.SOLOV2.NMS_PRE
    assert cfg.MODEL.FCOS.PRE_NMS_TOPK_TEST == 10 * get_cfg().MODEL.FCOS.PRE_NMS_TOPK_TEST
    fewer = load_config(None, [WANTED, "20"]).cfg
    assert caps(fewer) == (20, 20, 20) and counted_detections(fewer) == 100
    assert fewer.MODEL.SOLOV2.NMS_PRE == get_cfg().MODEL.SOLOV2.NMS_PRE


def test_what_nobody_sets_stays() -> None:
    assert caps(load_config(None, []).cfg) == caps(get_cfg()) == (100, 100, 100)
    assert load_config(None, ["MODEL.SOLOV2.MAX_PER_IMG", "300"]).cfg.MODEL.SOLOV2.MAX_PER_IMG == 300


def test_the_command_line_counts_more_than_the_files(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("MODEL:\n  SOLOV2:\n    MAX_PER_IMG: 50\n    NMS_PRE: 700\n")
    cfg = load_config(str(file), [WANTED, "400"]).cfg
    assert (cfg.MODEL.SOLOV2.MAX_PER_IMG, cfg.MODEL.SOLOV2.NMS_PRE) == (400, 5600)
    assert load_config(str(file)).cfg.MODEL.SOLOV2.MAX_PER_IMG == 50
    cfg = load_config(str(file), [WANTED, "400", "MODEL.SOLOV2.NMS_PRE", "900"]).cfg
    assert cfg.MODEL.SOLOV2.NMS_PRE == 900


def test_a_contradiction_is_named(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(None, [WANTED, "400", "MODEL.FCOS.POST_NMS_TOPK_TEST", "200"]).cfg
    assert caps(cfg) == (200, 400, 400)
    assert f"{WANTED} is 400, but MODEL.FCOS.POST_NMS_TOPK_TEST is 200" in caplog.text
    assert "SOLOV2" not in caplog.text


@pytest.mark.parametrize("number", ["0", "-1"])
def test_less_than_one_is_refused(number: str) -> None:
    with pytest.raises(UserError, match=rf"TEST\.DETECTIONS_PER_IMAGE is {number}: .* 1 or more"):
        load_config(None, [WANTED, number])
