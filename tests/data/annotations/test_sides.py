"""Entries that swap width and height: annotations are judged in the true size wherever they prove it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adet_iuq.data import check_coco_json, load_coco_records
from adet_iuq.data.annotations.coco_json import read_sanitized
from adet_iuq.data.annotations.report import Report

Content = dict[str, Any]
Writer = Callable[..., tuple[str, str, str]]

FAR = [[32, 6, 39, 6, 39, 16, 32, 16]]  # inside 40 x 30 (width x height), outside 30 x 40
LOW = [[5, 32, 15, 32, 15, 39, 5, 39]]  # the other way round
BOTH = [[5, 6, 25, 6, 25, 16, 5, 16]]


def annotation(segmentation: Any, **values: Any) -> Content:
    return {"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": segmentation} | values


def rle(height: int, width: int) -> Content:
    """Run lengths of the second column."""
    return {"size": [height, width], "counts": [height, height, height * (width - 2)]}


@pytest.fixture
def swapped(content: Content, write: Writer) -> Callable[..., tuple[str, str]]:
    """Writes a data set of one image, 40 x 30 in its file and 30 x 40 in its entry, with these segmentations."""

    def _swapped(*segmentations: Any) -> tuple[str, str]:
        content["images"] = [{"id": 7, "file_name": "7.png", "height": 40, "width": 30}]
        content["annotations"] = [annotation(one, id=n) for n, one in enumerate(segmentations, start=1)]
        content["categories"] = [{"id": 3, "name": "cell"}]
        _, json_file, root = write(content)
        return json_file, root

    return _swapped


def kinds(report: Report) -> set[str]:
    return set(report.problems) - {"no valid box"}


@pytest.mark.parametrize("segmentations", [[FAR], [BOTH, FAR], [rle(30, 40)], [BOTH, rle(30, 40), FAR]])
@pytest.mark.parametrize("image_sizes", [True, False])
def test_annotations_keep_their_true_frame(
    segmentations: list[Any], image_sizes: bool, swapped: Callable[..., tuple[str, str]], monkeypatch: Any
) -> None:
    monkeypatch.setattr("adet_iuq.data.annotations.annotation_entries._CHUNK", 1)
    json_file, root = swapped(*segmentations)
    report = check_coco_json(json_file, root, image_sizes=image_sizes)
    assert kinds(report) == {"sides swapped"} and report.usable == len(segmentations), report.text()
    assert report.annotations == len(segmentations)
    problem = report.problems["sides swapped"]
    assert problem.count == 1 and problem.examples == [f"{root}/7.png is 40 x 30, its entry says 30 x 40"]
    (record,) = load_coco_records(json_file, root)
    assert (record["height"], record["width"]) == (30, 40)
    outlines = [a["segmentation"] for a in record["annotations"] if isinstance(a["segmentation"], list)]
    assert outlines == [one for one in segmentations if isinstance(one, list)]
    found, _ = read_sanitized(json_file, root)
    assert found["images"] == [{"id": 7, "file_name": "7.png", "height": 30, "width": 40}]


def test_annotations_that_contradict_each_other_are_refused(swapped: Callable[..., tuple[str, str]]) -> None:
    for segmentations in ([FAR, LOW], [LOW, FAR], [FAR, rle(40, 30)]):
        report = check_coco_json(*swapped(*segmentations))
        assert report.fatal and "do not fit into it" in report.problems["size disagrees"].examples[0]


def test_a_flaw_of_one_annotation_does_not_hide_the_swap(swapped: Callable[..., tuple[str, str]]) -> None:
    report = check_coco_json(*swapped(FAR, [[5, 6, 2500, 6, 25, 16, 5, 16]]))
    assert kinds(report) == {"sides swapped", "coordinates far outside the image"} and report.usable == 2


def test_without_the_image_the_entry_counts(swapped: Callable[..., tuple[str, str]]) -> None:
    json_file, root = swapped(FAR, BOTH)
    os.rename(f"{root}/7.png", f"{root}/8.png")
    assert "sides swapped" not in check_coco_json(json_file, root).problems
    assert load_coco_records(json_file, root)[0]["width"] == 30
    os.rename(f"{root}/8.png", f"{root}/7.png")  # the digest that is kept knows that the image was looked at
    assert load_coco_records(json_file, root)[0]["width"] == 40


@pytest.mark.parametrize("orientation", [6, 3])
def test_turned_images_go_by_their_size(orientation: int, content: Content, write: Writer) -> None:
    """The entry has the size as stored; what EXIF says of it is not for the annotations to decide."""
    _, json_file, root = write(content)
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (40, 30)).save(f"{root}/7.png", exif=exif)
    content["annotations"] = [annotation(LOW), annotation(BOTH, id=2)]
    Path(json_file).write_text(json.dumps(content))
    record = load_coco_records(json_file, root)[0]
    assert (record["height"], record["width"]) == (30, 40)
    assert "sides swapped" not in check_coco_json(json_file, root).problems
