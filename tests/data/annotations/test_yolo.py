"""YOLO-segmentation labels as COCO-format files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adet_iuq.data import check_coco_json, load_coco_records
from adet_iuq.data.annotations.yolo import coco_files
from adet_iuq.data.annotations.yolo_yaml import read_data_yaml
from adet_iuq.errors import UserError
from helpers.folders import APPLE, PEAR, save_image, write_yolo


def write_yaml(folder: Path, **entries: Any) -> Path:
    path = folder / "data.yaml"
    path.write_text(json.dumps({"train": "images/train", "names": ["apple", "pear"]} | entries))  # JSON is YAML
    return path


def converted(folder: Path, split: str = "train", **entries: Any) -> tuple[dict[str, Any], str, str]:
    json_file, root = coco_files(read_data_yaml(str(write_yaml(folder, **entries))), split)
    return json.loads(Path(json_file).read_text()), json_file, root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with objects, one with an empty label file, one without."""
    texts = {"a.jpg": f"{APPLE}\n\n{PEAR}", "b.png": f"{PEAR} \r\n", "c.png": "", "d.JPG": None}
    write_yolo(tmp_path / "set/images/train", tmp_path / "set/labels/train", texts)
    return tmp_path / "set"


def test_outlines_in_pixels(folder: Path) -> None:
    content, json_file, root = converted(folder)
    assert root == f"{folder}/images/train"
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.png", "c.png", "d.JPG"]
    assert {(image["height"], image["width"]) for image in content["images"]} == {(30, 40)}
    assert [(a["image_id"], a["category_id"]) for a in content["annotations"]] == [(1, 0), (1, 1), (2, 1)]
    assert content["annotations"][0]["segmentation"] == [[4, 6, 16, 6, 16, 15, 4, 15]]
    assert content["annotations"][0]["bbox"] == [4, 6, 12, 9] and content["annotations"][0]["area"] == 108
    assert content["categories"] == [{"id": 0, "name": "apple"}, {"id": 1, "name": "pear"}]
    report = check_coco_json(json_file, root, training=True)
    assert not report.problems and (report.images, report.usable) == (4, 3)


@pytest.mark.parametrize("upright", [True, False])
def test_shares_are_of_the_image_as_viewers_show_it(folder: Path, upright: bool) -> None:
    exif = Image.Exif()
    exif[274] = 1 if upright else 6
    save_image(folder / "images/train/a.jpg", exif=exif)
    content, json_file, root = converted(folder)
    assert (content["images"][0]["height"], content["images"][0]["width"]) == ((30, 40) if upright else (40, 30))
    assert content["annotations"][0]["bbox"] == ([4, 6, 12, 9] if upright else [3, 8, 9, 12])
    assert load_coco_records(json_file, root)[0]["height"] == (30 if upright else 40)


@pytest.mark.parametrize(
    "entries",
    [
        {"path": "", "train": ["images/train"]},
        {"path": "..", "train": "set/images/train"},
        {"train": "../images/train"},
        {"train": ".\\images\\train"},
        {"path": "/no/such/datasets/set", "train": "images/train"},
        {"train": "images"},
        {"train": "list.txt"},
        {"train": ["images/train/", "list.txt"], "val": None, "test": ""},
        {"train": [f"images/train/{name}" for name in ("a.jpg", "b.png", "c.png", "d.JPG")]},
        {"names": {0: "apple", 1: "pear"}},
        {"names": {"0": "apple", "1": "pear"}, "nc": 2},
    ],
)
def test_ways_to_write_it(folder: Path, entries: dict[str, Any]) -> None:
    lines = ["./images/train/a.jpg", f"{folder}/images/train/b.png", "images/train/c.png", "", "images/train/d.JPG"]
    (folder / "list.txt").write_text("\n".join(lines))
    content, _, root = converted(folder, **entries)
    assert len(content["annotations"]) == 3
    assert [(Path(root) / image["file_name"]).name for image in content["images"]] == [
        "a.jpg",
        "b.png",
        "c.png",
        "d.JPG",
    ]


def test_several_folders_and_labels_beside_images(tmp_path: Path) -> None:
    write_yolo(tmp_path / "one", tmp_path / "one", {"a.jpg": APPLE})
    write_yolo(tmp_path / "two/images", tmp_path / "two/labels", {"a.jpg": f"{APPLE}\n{PEAR}"})
    content, json_file, root = converted(tmp_path, train=["one", "two/images"])
    assert [image["file_name"] for image in content["images"]] == ["one/a.jpg", "two/images/a.jpg"]
    assert [a["image_id"] for a in content["annotations"]] == [1, 2, 2]
    assert not check_coco_json(json_file, root).problems


def test_label_files_in_another_unicode_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_yolo(tmp_path / "images", tmp_path / "labels", {"M\u00fc.jpg": APPLE})
    (tmp_path / "labels/M\u00fc.txt").rename(tmp_path / "labels/Mu\u0308.txt")
    (tmp_path / "labels/lost.txt").write_text(APPLE)
    (tmp_path / "labels/classes.txt").write_text("apple\npear")
    assert len(converted(tmp_path, train="images")[0]["annotations"]) == 1
    assert "1 label files of 'train' have no image, for example" in caplog.text and "lost.txt" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 0.5 0.5 0.2 0.2", "box without an outline (1). These objects have a box"),
        ("2 0.1 0.1 0.2 0.1 0.2 0.2", "unknown class (1). 'names' has 0 apple, 1 pear."),
        ("-1 0.1 0.1 0.2 0.1 0.2 0.2", "unknown class (1)"),
        ("0.5 0.1 0.1 0.2 0.1 0.2 0.2", "unknown class (1)"),
        ("0 0.1 0.1 0.2 0.1 0.2", "line that is no object (1)"),
        ("0 0.1 0.1", "line that is no object (1)"),
        ("0 0.1 0.1 0.2 0.1 nan 0.2", "line that is no object (1)"),
        ("apple 0.1 0.1 0.2 0.1 0.2 0.2", "line that is no object (1)"),
        ("0,0.1,0.1,0.2,0.1,0.2,0.2", "line that is no object (1)"),
        ("0 10 10 20 10 20 20", "coordinates that are no shares (1). Coordinates are shares"),
    ],
)
def test_lines_that_cannot_serve_are_named(folder: Path, line: str, message: str) -> None:
    label = folder / "labels/train/a.txt"
    label.write_text(f"{APPLE}\n{line}\n{PEAR}")
    with pytest.raises(UserError) as caught:
        converted(folder)
    assert f"FATAL: {message}" in str(caught.value) and f"{label} line 2: {line}" in str(caught.value)
    assert not list((folder.parent / "cache").rglob("annotations.json"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"train": "images/trian"},
            r"'train: images/trian' names no file or folder. Looked for were .*/set/images/trian",
        ),
        ({"train": "labels"}, r"'train: labels' holds no images \(.jpg"),
        ({"train": "gone.txt"}, r"which does not exist"),
        ({"train": "latin.txt"}, r"/latin\.txt must be a text file in UTF-8"),
        ({"names": {"apple": 0}}, "'names' must be a list of class names, or"),
        ({"names": []}, "'names' must be a list"),
        ({"names": None}, "'names' must be a list .* no name may be empty"),
        ({"names": ["apple", " "]}, "'names' must be a list .* no name may be empty"),
        ({"names": {0: "apple", 1: None}}, "'names' must be a list .* no name may be empty"),
        ({"names": [True, False]}, r"YAML takes names such as yes, no.*put quotes around them"),
        ({"train": "null.txt"}, r"/null\.txt must be a text file .* null characters"),
        ({"train": None}, "is no data.yaml of YOLO"),
    ],
)
def test_wrong_files(folder: Path, entries: dict[str, Any], message: str) -> None:
    (folder / "gone.txt").write_text("images/train/gone.jpg\n")
    (folder / "null.txt").write_bytes(b"images/train/\0.jpg\n")
    (folder / "latin.txt").write_bytes("images/train/Müll.jpg\n".encode("latin-1"))
    with pytest.raises(UserError, match=message):
        converted(folder, **entries)


@pytest.mark.parametrize("entry", ["extra: !!bool maybe", "extra: " + "[" * 3000 + "]" * 3000])
def test_values_that_yaml_cannot_read(folder: Path, entry: str) -> None:
    path = folder / "data.yaml"
    path.write_text(f"train: images/train\nnames: [apple]\n{entry}\n")
    with pytest.raises(UserError, match=r"data\.yaml cannot be read as YAML: (a value in it|its brackets)"):
        read_data_yaml(str(path))


def test_damaged_images_missing_labels_and_no_yaml(folder: Path) -> None:
    (folder / "images/train/b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"image that cannot be read \(1\)(.|\n)*b.png"):
        converted(folder)
    write_yolo(folder / "images/test", folder / "labels/test", {"a.jpg": None})
    with pytest.raises(
        UserError, match=r"no image of 'test' has a label file. For .*/images/test/a.jpg it is looked for"
    ):
        converted(folder, "test", test="images/test")
    (folder / "data.yaml").write_text("names: [a\n")
    with pytest.raises(UserError, match=r"data.yaml cannot be read as YAML"):
        read_data_yaml(str(folder / "data.yaml"))


def test_findings_name_the_label_file(folder: Path) -> None:
    label = folder / "labels/train/a.txt"
    label.write_text(f"{APPLE}\n\n{PEAR}\n1 0.5 0.5 0.5 0.5 0.5 0.5\n{APPLE}")
    _, json_file, root = converted(folder)
    problems = check_coco_json(json_file, root).problems
    assert problems["mask without area"].examples[0].startswith(f"{label} line 4: [[20.0, 15.0")
    assert problems["duplicate annotation"].examples == [f"{label} line 5"]


def test_converted_once_until_something_changes(folder: Path) -> None:
    first = converted(folder)[1]
    assert converted(folder)[1] == first
    assert converted(folder, names=["apple", "plum"])[1] != first
    (folder / "labels/train/d.txt").write_text(APPLE)
    second, again, _ = converted(folder)
    assert again != first and len(second["annotations"]) == 4
    save_image(folder / "images/train/d.JPG", size=(60, 40))  # the labels stay, and mean other pixels
    third = converted(folder)[0]
    assert third["images"][3]["height"] == 60 and np.isclose(third["annotations"][3]["bbox"][3], 18)
