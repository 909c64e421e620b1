"""Each flaw that the checker knows, in an otherwise sound data set."""

import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adet_iuq.data import check_coco_json
from adet_iuq.data.annotations.report import Report
from adet_iuq.errors import UserError

Content = dict[str, Any]
Writer = Callable[..., tuple[str, str, str]]


def change(position: int, **values: Any) -> Callable[[Content], None]:
    """Changes one annotation of the sound data set."""
    return lambda content: content["annotations"][position].update(values)


def repeat(section: str, **values: Any) -> Callable[[Content], None]:
    """Lists the first entry of a section twice, the second time with changes."""
    return lambda content: content[section].append({**copy.deepcopy(content[section][0]), **values})


def check(content: Content, write: Writer, flaw: Callable[[Content], None] | None = None, **options: Any) -> Report:
    if flaw:
        flaw(content)
    _, json_file, root = write(content)
    return check_coco_json(json_file, root, **options)


def test_sound_data_set(content: Content, write: Writer) -> None:
    report = check(content, write)
    assert not report.fatal
    assert (report.images, report.annotations, report.usable) == (3, 4, 3)
    assert list(report.problems) == ["crowd"] and report.problems["crowd"].count == 1
    report.raise_if_fatal()


EMPTY = {"size": [30, 40], "counts": [1200]}
FATAL = [
    ("unknown category", change(1, category_id=4), "annotation 2"),
    ("segmentation without any part of three points", change(0, segmentation=[]), "annotation 1 of 7.png"),
    ("segmentation without any part of three points", change(0, segmentation=[[1, 1, 5, 5]]), "annotation 1 of 7.png"),
    ("segmentation without any part of three points", change(0, segmentation=None), "annotation 1 of 7.png"),
    (
        "segmentation without any part of three points",
        change(2, segmentation=[[1, 1, 5, 5, float("nan"), 4], [1, 2, 3, 4, 5, 6, 7]]),
        "annotation 3 of 8.png",
    ),
    (
        "segmentation without any part of three points",
        change(0, segmentation=json.loads("[" * 900 + "5, 6, 25, 6, 25, 16" + "]" * 900)),
        "annotation 1 of 7.png: segmentation [[[",
    ),
    ("no valid instance left", lambda content: content["annotations"].clear(), "json"),
    ("no valid instance left", lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "json"),
    ("no valid instance left", lambda c: [a.update(segmentation=[[5] * 6]) for a in c["annotations"]], "json"),
    ("no valid instance left", lambda c: [a.update(segmentation=EMPTY) for a in c["annotations"]], "json"),
    ("no categories", lambda content: content.pop("categories"), "json"),
    ("no images", lambda content: content["images"].clear(), "json"),
]

WARNING = [
    ("broken polygon part", change(0, segmentation=[[5, 6, 25, 6, 25, 16, 5, 16], [1, 1, 2, 2]]), "annotation 1", 3),
    ("broken run-length mask", change(1, segmentation={"size": [30, 40], "counts": "zzz"}), "annotation 2", 2),
    ("broken run-length mask", change(1, segmentation={"size": [40, 30], "counts": [1200]}), "annotation 2", 2),
    ("mask without area", change(0, segmentation=[[5, 5, 9, 9, 7, 7], [5] * 8]), "annotation 1 of 7.png", 2),
    ("mask without area", change(0, segmentation=[[50, 5, 60, 5, 60, 15]]), "annotation 1 of 7.png", 2),
    ("mask without area", change(1, segmentation=EMPTY), "annotation 2 of 7.png", 2),
    ("box outside the image", change(0, bbox=[30, 6, 20, 10]), "annotation 1 of 7.png", 3),
    ("no valid box", change(0, bbox=[30, 6, 0, 10]), "annotation 1 of 7.png", 3),
    ("no valid box", lambda content: content["annotations"][0].pop("bbox"), "annotation 1 of 7.png", 3),
    ("duplicate image id", repeat("images"), "id 7", 3),
    ("duplicate annotation id", repeat("annotations", bbox=[5, 6, 20, 9]), "annotation 1", 4),
    ("duplicate annotation", repeat("annotations", id=99), "annotation 99 of 7.png", 4),
    ("duplicate category id", repeat("categories"), "category 9", 3),
    ("annotation id 0", change(0, id=0), "annotation 0", 3),
    ("annotation without id", lambda content: content["annotations"][0].pop("id"), "7.png", 3),
    ("annotation of an unknown image", change(0, image_id=99), "image_id 99", 2),
    ("incomplete image entry", lambda content: content["images"].append({"id": 3, "height": 4}), "height", 3),
]


@pytest.mark.parametrize(("kind", "flaw", "place"), FATAL)
def test_fatal_flaw(kind: str, flaw: Callable[[Content], None], place: str, content: Content, write: Writer) -> None:
    report = check(content, write, flaw)
    assert report.fatal and report.problems[kind].fatal
    assert place in report.problems[kind].examples[0]
    with pytest.raises(UserError, match=kind):
        report.raise_if_fatal()


@pytest.mark.parametrize(("kind", "flaw", "place", "usable"), WARNING)
def test_warning(
    kind: str,
    flaw: Callable[[Content], None],
    place: str,
    usable: int,
    content: Content,
    tmp_path: Path,
    write: Writer,
) -> None:
    _, _, root = write(content)
    flaw(content)
    path = tmp_path / "flawed.json"
    path.write_text(json.dumps(content))
    report = check_coco_json(str(path), root)
    assert not report.fatal
    assert report.problems[kind].count == 1 and place in report.problems[kind].examples[0]
    assert set(report.problems) <= {kind, "crowd", "duplicate annotation"}
    assert report.usable == usable


def test_what_becomes_of_a_box_outside_is_said(content: Content, write: Writer) -> None:
    report = check(content, write, change(0, bbox=[60, 6, 20, 10]))
    assert "wholly outside is taken from the segmentation" in report.text() and report.usable == 3


def test_stock_data_sets_only_warn_of_bad_polygons(content: Content, write: Writer) -> None:
    report = check(content, write, change(0, segmentation=[]), stock=True)
    assert not report.fatal and "segmentation without any part of three points" in report.problems


def test_data_set_without_annotations(content: Content, write: Writer) -> None:
    del content["annotations"]
    entry = write(content)
    assert not check_coco_json(entry[1], entry[2]).fatal
    assert "no annotations" in check_coco_json(entry[1], entry[2], training=True).problems


def test_missing_images(content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    os.unlink(os.path.join(root, "8.png"))
    report = check_coco_json(json_file, root)
    assert report.fatal and report.problems["missing image"].count == 1
    assert os.path.join(root, "8.png") in report.text()
    assert check_coco_json(json_file, "/no/such/folder").problems["missing image"].count == 3


def test_images_in_subfolders(content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    os.mkdir(os.path.join(root, "sub"))
    os.rename(os.path.join(root, "8.png"), os.path.join(root, "sub", "8.png"))
    content["images"][1]["file_name"] = "./sub/8.png"
    Path(json_file).write_text(json.dumps(content))
    assert not check_coco_json(json_file, root).fatal


def test_lvis_images_lie_where_their_url_says(content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/{os.path.basename(root)}/{image.pop('file_name')}"
    Path(json_file).write_text(json.dumps(content))
    assert not check_coco_json(json_file, os.path.dirname(root), stock=True).fatal


@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
def test_cut_json(share: float, content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    text = Path(json_file).read_text()
    Path(json_file).write_text(text[: int(len(text) * share)])
    report = check_coco_json(json_file, root)
    assert report.fatal
    assert f"{json_file} is cut off at character {int(len(text) * share)}" in report.text()


def test_many_findings_are_counted_and_a_few_shown(content: Content, write: Writer) -> None:
    content["annotations"] = [{**content["annotations"][0], "id": i, "category_id": 77} for i in range(1, 40)]
    problem = check(content, write).problems["unknown category"]
    assert problem.count == 39 and len(problem.examples) == 5 and "and 34 more" in problem.text()


def test_missing_image_search_is_fast(tmp_path: Path, content: Content) -> None:
    for number in range(2000):
        (tmp_path / f"{number}.jpg").touch()
    content["images"] = [{"id": i, "file_name": f"{i % 2000}.jpg", "height": 30, "width": 40} for i in range(100_000)]
    path = tmp_path / "big.json"
    path.write_text(json.dumps(content))
    start = time.perf_counter()
    report = check_coco_json(str(path), str(tmp_path), image_sizes=False)
    assert time.perf_counter() - start < 10
    assert "missing image" not in report.problems
