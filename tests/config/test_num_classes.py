"""The one walk over a config's numbers of classes."""

from detectron2.config import CfgNode

from adet_iuq.config import get_cfg
from adet_iuq.config.num_classes import all_num_classes, num_classes_sections


def test_every_section_at_any_depth_is_found_and_can_be_set() -> None:
    deep = {"B": {"NUM_CLASSES": 3, "OTHER": 9}, "C": {"D": {"NUM_CLASSES": 4, "NUM_CLASSES_OF_D": 8}}}
    cfg = CfgNode({"NUM_CLASSES": 2, "A": deep, "LAST": {"NAME": "x"}})
    sections = num_classes_sections(cfg)
    assert list(sections) == ["NUM_CLASSES", "A.B.NUM_CLASSES", "A.C.D.NUM_CLASSES"]
    assert all_num_classes(cfg) == {2, 3, 4}
    sections["A.C.D.NUM_CLASSES"].NUM_CLASSES = 7
    assert cfg.A.C.D.NUM_CLASSES == 7 and all_num_classes(cfg) == {2, 3, 7}


def test_those_of_all_segmenters_are_found() -> None:
    assert {f"MODEL.{name}.NUM_CLASSES" for name in ("FCOS", "SOLOV2", "SOTR", "SEM_SEG_HEAD")} <= set(
        num_classes_sections(get_cfg())
    )
