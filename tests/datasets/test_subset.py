"""Parts of a COCO-format file: chosen images, chosen categories."""

import pytest
from subset import categories_subset, images_subset

DATA = {
    "info": {"year": 2026},
    "images": [{"id": 1}, {"id": 2}, {"id": 3}],
    "categories": [{"id": 5, "name": "person"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}],
    "annotations": [
        {"id": 10, "image_id": 1, "category_id": 5},
        {"id": 11, "image_id": 1, "category_id": 7},
        {"id": 12, "image_id": 2, "category_id": 7},
        {"id": 13, "image_id": 3, "category_id": 5, "iscrowd": 1},
    ],
}


def ids(part: dict[str, list[dict[str, int]]]) -> list[list[int]]:
    return [[one["id"] for one in part[key]] for key in ("images", "categories", "annotations")]


def test_images_in_the_wanted_order_and_the_categories_that_they_show() -> None:
    part = images_subset(DATA, [2, 1])
    assert ids(part) == [[2, 1], [5, 7], [10, 11, 12]] and part["info"] == DATA["info"]
    with pytest.raises(SystemExit, match=r"no image \[4\]"):
        images_subset(DATA, [1, 4])


def test_categories_and_the_images_that_show_them() -> None:
    assert ids(categories_subset(DATA, ["person"])) == [[1, 3], [5], [10, 13]]
    with pytest.raises(SystemExit, match="no category horse"):
        categories_subset(DATA, ["person", "horse"])
