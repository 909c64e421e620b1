"""Images whose names in the JSON file are spelt differently than on the disk."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image

from adet_iuq.data import TrainingMapper, check_coco_json, load_dataset, register_datasets
from adet_iuq.data.annotations import file_names
from adet_iuq.data.annotations.file_names import OTHER_SPELLING
from helpers.perfect import perfect_results

Content = dict[str, Any]
Writer = Callable[..., tuple[str, str, str]]

COMPOSED, DECOMPOSED = "M\u00fcller/\u00e9t\u00e9.png", "Mu\u0308ller/e\u0301te\u0301.png"
SPELLINGS = [
    (COMPOSED, DECOMPOSED, "the Unicode form"),
    (DECOMPOSED, COMPOSED, "the Unicode form"),
    ("train\\a.png", "train/a.png", "slashes"),
    ("/train//a.png", "train/a.png", "slashes"),
    ("train/a.png", "train\\a.png", "slashes"),  # unpacked by a program that knows no folders
    ("train%2Fone%20two.png", "train/one two.png", "percent signs"),
    ("one two.png", "one%20two.png", "percent signs"),
    ("a.PNG", "a.png", "the suffix's case"),
    ("train\\one%20two.Png", "train/one two.png", "percent signs and slashes and the suffix's case"),
]


@pytest.fixture
def content(content: Content) -> Content:
    """Without a crowd, which the check would name as well."""
    content["annotations"][3]["iscrowd"] = 0
    return content


def move(root: str, name: str, to: str) -> None:
    (Path(root) / to).parent.mkdir(exist_ok=True)
    (Path(root) / name).rename(Path(root) / to)


@pytest.mark.parametrize(("listed", "stored", "how"), SPELLINGS)
def test_the_one_file_that_fits_is_taken_everywhere(
    listed: str,
    stored: str,
    how: str,
    content: Content,
    write: Writer,
    cfg: CfgNode,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, json_file, root = write(content)
    move(root, "7.png", stored)
    content["images"][0]["file_name"] = listed
    Path(json_file).write_text(json.dumps(content))
    report = check_coco_json(json_file, root)
    assert list(report.problems) == [OTHER_SPELLING] and not report.fatal and not report.mended
    assert report.problems[OTHER_SPELLING].count == 1
    assert f"{listed} is {stored} on the disk, which differs in {how} (image id 7)" in report.text()

    cfg.DATASETS.REGISTER = [[name, json_file, root]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    register_datasets(cfg)
    assert load_dataset(name)[0]["file_name"] == f"{root}/{stored}"
    load_dataset(name)
    assert caplog.text.count(f"1 x {OTHER_SPELLING}. {listed} is {stored}") == 1  # once, however often it is loaded
    mapper = TrainingMapper(cfg)
    assert [len(mapper({**record, "sample_seed": 1})["instances"]) for record in load_dataset(name)] == [2, 2, 0]
    assert perfect_results(cfg, name, tmp_path / "out")["segm"]["AP"] == pytest.approx(100)
    assert not list((tmp_path / "out").glob("ground_truth.json"))  # names of images do not disturb an evaluation


def test_several_files_fit(content: Content, write: Writer) -> None:
    content["images"][0]["file_name"] = "7.PNG"
    _, json_file, root = write(content)
    for other in ("7.png", "7.Png"):
        Image.new("RGB", (40, 30)).save(f"{root}/{other}")
    os.unlink(f"{root}/7.PNG")
    report = check_coco_json(json_file, root)
    assert list(report.problems) == ["missing image"] and report.fatal
    assert f"{root}/7.PNG (image id 7); there is 7.Png, 7.png" in report.text()


def test_a_file_stands_for_one_name_only(content: Content, write: Writer) -> None:
    """8.PNG is another image than 8.png, which is listed too; 9.PNG and 9.Png are two, and there is one file."""
    content["images"] += [{**content["images"][1], "id": 80, "file_name": "8.PNG"}]
    content["images"][2]["file_name"] = "9.PNG"
    content["images"] += [{**content["images"][2], "id": 90, "file_name": "9.Png"}]
    _, json_file, root = write(content)
    for name in ("8.PNG", "9.Png"):
        os.unlink(f"{root}/{name}")
    move(root, "9.PNG", "9.png")
    report = check_coco_json(json_file, root)
    assert list(report.problems) == ["missing image"] and report.problems["missing image"].count == 3
    assert "8.PNG (image id 80); there is 8.png" in report.text()


@pytest.mark.parametrize(
    ("listed", "stored"),
    [
        ("C:\\Users\\me\\7.jpg", "7.jpg"),
        ("train/7.jpg", "7.jpg"),
        ("7.jpg", "train/7.jpg"),
        ("7.jpg", "7.png"),
        ("IMG_7.jpg", "img_7.jpg"),
        ("frame_000007.jpg", "frame_00007.jpg"),
    ],
)
def test_near_candidates_are_named(listed: str, stored: str, content: Content, write: Writer) -> None:
    content["images"] = content["images"][:1]
    content["annotations"] = content["annotations"][:2]
    _, json_file, root = write(content)
    content["images"][0]["file_name"] = listed
    Path(json_file).write_text(json.dumps(content))
    move(root, "7.png", stored)
    report = check_coco_json(json_file, root)
    assert list(report.problems) == ["missing image"]
    assert f"(image id 7); there is {stored}" in report.text()


def test_nothing_near(content: Content, write: Writer) -> None:
    _, json_file, root = write(content, images=False)
    for report in (check_coco_json(json_file, root), check_coco_json(json_file, f"{root}/nowhere")):
        assert report.problems["missing image"].count == 3 and "there is" not in report.text()


def test_escapes_that_are_no_text_stay_apart(content: Content, write: Writer) -> None:
    content["images"][0]["file_name"] = "%E9.png"
    _, json_file, root = write(content)
    move(root, "%E9.png", "%E8.png")
    assert check_coco_json(json_file, root).fatal


def test_a_size_is_read_from_the_file_that_is_meant(content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    move(root, "7.png", "7.PNG")
    for key in ("height", "width"):
        del content["images"][0][key]
    Path(json_file).write_text(json.dumps(content))
    report = check_coco_json(json_file, root)
    assert not report.fatal and {OTHER_SPELLING, "image size not in the file"} == set(report.problems)


def test_what_is_on_the_disk_now_counts(content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    assert not check_coco_json(json_file, root).problems
    os.utime(root, ns=(1, 1))  # the time of a folder is as coarse as the clock of its file system
    assert not check_coco_json(json_file, root).problems
    move(root, "7.png", "7.PNG")
    assert list(check_coco_json(json_file, root).problems) == [OTHER_SPELLING]


def test_cost(content: Content, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is listed once for the pass and once for the check, and names are not compared where all are right."""
    for entry in content["images"]:
        entry["file_name"] = "sub/" + entry["file_name"]
    images, content["images"] = content["images"], []
    _, json_file, root = write(content)
    (Path(root) / "sub").mkdir()
    for entry in images:
        Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(Path(root) / entry["file_name"])
    Path(json_file).write_text(json.dumps({**content, "images": images}))
    listed: list[Any] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))  # type: ignore[func-returns-value]
    monkeypatch.setattr(file_names, "plain", lambda *_: pytest.fail("compared"))
    assert not check_coco_json(json_file, root).problems
    assert listed == [f"{root}/sub"] * 2


def test_detectron2s_own_sets_are_named_only(content: Content, write: Writer) -> None:
    """detectron2 reads them itself, and does not look for other spellings."""
    _, json_file, root = write(content)
    move(root, "7.png", "7.PNG")
    report = check_coco_json(json_file, root, stock=True)
    assert list(report.problems) == ["missing image"] and "there is 7.PNG" in report.text()
