import io
import json
import math
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from rich.console import Console

from adet_iuq.config import get_cfg
from adet_iuq.errors import UserError
from adet_iuq.evaluation import EVALUATOR_REGISTRY, build_evaluator, print_results, report_results

RESULTS = {"bbox": {"AP": 12.345, "AP50": math.nan, "AP-cat": 3.0}, "segm": {"AP": 1.5, "AP50": 7.0, "AP-cat": 2.0}}


def printed(results: dict, datasets: tuple[str, ...]) -> str:
    text = io.StringIO()
    print_results(results, datasets, Console(file=text, width=100))
    return text.getvalue()


def test_the_table_has_tasks_and_overall_metrics() -> None:
    text = printed(RESULTS, ("val",))
    assert "Results on val" in text and "12.35" in text and "7.00" in text
    assert "cat" not in text and "nan" not in text


def test_several_data_sets_get_a_table_each() -> None:
    text = printed({"one": RESULTS, "two": {}, "three": RESULTS}, ("one", "two", "three"))
    assert "Results on one" in text and "Results on three" in text and "two" not in text


def test_tasks_with_other_metrics_get_a_table_of_their_own() -> None:
    text = printed({**RESULTS, "panoptic_seg": {"PQ": 55.5, "PQ-cat": 44.4}}, ("val",))
    assert text.count("Results on val") == 2 and "55.50" in text and "44.40" not in text


def test_results_json_can_be_printed(tmp_path: Path) -> None:
    """As the quickstart does; it has null where a metric is not a number."""
    report_results(RESULTS, ("val",), str(tmp_path))
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["val"]["bbox"]["AP50"] is None
    assert printed(content["val"], ("val",)) == printed(RESULTS, ("val",))


def test_results_json_is_json(tmp_path: Path) -> None:
    report_results(RESULTS, ("val",), str(tmp_path))
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["val"]["bbox"] == {"AP": 12.345, "AP50": None, "AP-cat": 3.0}


def test_data_sets_that_cannot_be_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MetadataCatalog.get("unevaluated_for_tests").set(evaluator_type="guess")
    with pytest.raises(UserError, match="'guess'"):
        build_evaluator(get_cfg(), "unevaluated_for_tests", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps lvis"):
        build_evaluator(get_cfg(), "lvis_v1_val", str(tmp_path))


def test_a_registered_kind_of_data_set_gets_its_evaluator(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    @EVALUATOR_REGISTRY.register("counting_for_tests")
    def build(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
        asked.append((dataset_name, output_folder))
        return DatasetEvaluator()

    MetadataCatalog.get("counted_for_tests").set(evaluator_type="counting_for_tests")
    assert type(build_evaluator(get_cfg(), "counted_for_tests", str(tmp_path))) is DatasetEvaluator
    assert asked == [("counted_for_tests", str(tmp_path))]
    MetadataCatalog.get("nothing_for_tests").set(evaluator_type="nothing")
    with pytest.raises(UserError, match="'coco', 'lvis', 'coco_panoptic_seg'"):
        build_evaluator(get_cfg(), "nothing_for_tests", str(tmp_path))
