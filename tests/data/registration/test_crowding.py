"""More objects in an image than detections count."""

from collections.abc import Callable
from typing import Any

import pytest
from detectron2.config import CfgNode

from adet_iuq.data import check_coco_json, register_datasets
from adet_iuq.data.registration.crowding import warn_of_crowded_images


def test_crowded_images_are_counted(
    registered: CfgNode, caplog: pytest.LogCaptureFixture, content: dict[str, Any], write: Callable[..., Any]
) -> None:
    content["annotations"] += [{**content["annotations"][0], "id": 100 + number} for number in range(4)]
    entry = write(content)
    registered.DATASETS.REGISTER, registered.DATASETS.TEST = [list(entry)], (entry[0], "coco_2017_val")
    registered.DATASETS.TRAIN = ()
    register_datasets(registered)
    for limit, warned in ((6, False), (5, True)):  # six objects in the first of three images; a crowd is none
        caplog.clear()
        registered.TEST.DETECTIONS_PER_IMAGE = limit
        warn_of_crowded_images(registered)
        assert ("1 of 3 images have more than 5 objects (up to 6)" in caplog.text) == warned
        assert ("Set TEST.DETECTIONS_PER_IMAGE 6" in caplog.text) == warned


def test_the_checker_names_crowded_images(content: dict[str, Any], write: Callable[..., Any]) -> None:
    content["annotations"] += [{**content["annotations"][0], "id": 100 + number} for number in range(4)]
    _, json_file, root = write(content)
    problem = check_coco_json(json_file, root, detections=5).problems["more objects than detections"]
    assert problem.examples == ["7.png: 6 objects"] and "TEST.DETECTIONS_PER_IMAGE 6" in problem.advice
    for detections in (6, None):
        report = check_coco_json(json_file, root, detections=detections)
        assert "more objects than detections" not in report.problems
