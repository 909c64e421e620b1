"""What the pass says of ids and categories."""

import json
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from adet_iuq.data import check_coco_json
from adet_iuq.data.annotations.coco_json import read_categories

Content = dict[str, Any]


def test_ids_that_the_parser_rounds(registered: CfgNode, content: Content) -> None:
    """10^29 and 10^29 + 1 are one number to it: annotations of both would lie in one image."""
    _, json_file, root = registered.DATASETS.REGISTER[0]
    for number, image in enumerate(content["images"]):
        image["id"] = 10**29 + number
    Path(json_file).write_text(json.dumps(content))
    report = check_coco_json(json_file, root)
    assert report.fatal and report.problems["image id beyond 64 bits"].count == 3
    content["images"] = [{**image, "id": 2**64 - 1 - number} for number, image in enumerate(content["images"])]
    Path(json_file).write_text(json.dumps(content))
    report = check_coco_json(json_file, root)
    assert "image id beyond 64 bits" not in report.problems
    (example,) = report.problems["image ids that do not sort together"].examples
    assert example == f"id {2**64 - 3} and id {2**64 - 1}"


def test_image_ids_of_two_types_are_named(registered: CfgNode, content: Content) -> None:
    _, json_file, root = registered.DATASETS.REGISTER[0]
    assert "image ids that do not sort together" not in check_coco_json(json_file, root).problems
    content["images"][0]["id"] = "seven"
    Path(json_file).write_text(json.dumps(content))
    problem = check_coco_json(json_file, root).problems["image ids that do not sort together"]
    assert problem.examples == ["id 8 and id 'seven'"] and not problem.fatal


def test_names_that_no_log_can_show_are_escaped(registered: CfgNode, content: Content) -> None:
    """JSON allows halves of surrogate pairs; TensorBoard does not."""
    _, json_file, root = registered.DATASETS.REGISTER[0]
    content["categories"][0]["name"] = "ap\ud800ple"
    Path(json_file).write_text(json.dumps(content))
    names, _ = read_categories(json_file, root)
    assert "ap\\ud800ple" in names and all(name.encode() for name in names)


def test_categories_that_nothing_is_learned_of_are_named(registered: CfgNode, content: Content) -> None:
    _, json_file, root = registered.DATASETS.REGISTER[0]
    kind = "category without a usable annotation"
    assert kind not in check_coco_json(json_file, root).problems
    content["categories"] += [{"id": 77, "name": "unseen"}, {"id": 78, "name": "spoilt"}]
    content["annotations"].append({**content["annotations"][0], "id": 70, "category_id": 78, "segmentation": [[1, 2]]})
    Path(json_file).write_text(json.dumps(content))
    assert check_coco_json(json_file, root).problems[kind].examples == ["category 77: unseen", "category 78: spoilt"]
    content["annotations"] = []
    Path(json_file).write_text(json.dumps(content))
    assert kind not in check_coco_json(json_file, root).problems
