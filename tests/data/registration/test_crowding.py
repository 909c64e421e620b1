"""More objects in an image than detections count."""

from collections.abc import Callable
from typing import Any

import pytest
from detectron2.config import CfgNode

from adet_iuq.data import register_datasets
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
