"""Each flaw that the checker knows, in an otherwise sound data set."""

import contextlib
import copy
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from adet_iuq.data import build_train_loader, check_coco_json, ensure_datasets_sound, register_datasets
from adet_iuq.data.annotations.report import Report
from adet_iuq.data.registration.soundness import check_registered
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


def test_image_sizes(content: Content, write: Writer) -> None:
    del content["annotations"][3]  # a run-length mask, which says that it belongs to 40 x 30
    _, json_file, root = write(content)
    Image.new("RGB", (30, 40)).save(os.path.join(root, "8.png"))
    Path(root, "9.png").write_bytes(b"nonsense")
    report = check_coco_json(json_file, root, skip_unreadable=True)
    assert not report.fatal and report.usable == 3
    (swapped,) = report.problems["sides swapped"].examples
    assert "8.png is 30 x 40, its entry says 40 x 30" in swapped
    assert "9.png cannot be read" in report.problems["unreadable image"].examples[0]
    Image.new("RGB", (30, 40)).save(os.path.join(root, "7.png"))  # so does one of its masks
    Image.new("RGB", (41, 30)).save(os.path.join(root, "9.png"))
    report = check_coco_json(json_file, root)
    first, second = report.problems["size disagrees"].examples
    assert report.fatal and "7.png is 30 x 40" in first and "do not fit" in first and "9.png is 41 x 30" in second
    assert not check_coco_json(json_file, root, image_sizes=False).problems


def test_images_without_a_size_in_the_file(content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    for image in content["images"]:
        del image["height"], image["width"]
    Path(json_file).write_text(json.dumps(content))
    assert "size disagrees" not in check_coco_json(json_file, root).problems


def test_what_the_reader_does_with_an_image_is_said(
    content: Content, write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, json_file, root = write(content)
    Image.fromarray(np.zeros((30, 40), np.uint16)).save(os.path.join(root, "7.png"))
    for name, orientation in (("8.png", 6), ("9.png", 3)):
        exif = Image.Exif()
        exif[274] = orientation
        Image.new("RGB", (40, 30)).save(os.path.join(root, name), exif=exif)
    report = check_coco_json(json_file, root)
    assert not report.fatal
    for kind, words in (
        ("deep image", r'7\.png: one channel of 16-bit unsigned integer values \(mode "I;16"\)'),
        ("annotated as stored", r"8\.png: EXIF orientation 6"),
        ("orientation unclear", r"9\.png: EXIF orientation 3"),
    ):
        assert re.search(words, report.problems[kind].text())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    report = check_coco_json(json_file, root)
    assert report.fatal and "ADET_IUQ_MAX_PIXELS" in report.problems["image too large"].text()
    assert "unreadable image" not in report.problems


def test_exif_orientation_counts(content: Content, write: Writer) -> None:
    _, json_file, root = write(content)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 40)).save(os.path.join(root, "7.png"), exif=exif)
    assert list(check_coco_json(json_file, root).problems) == ["crowd"]


def test_deep_images_that_the_reader_refuses(content: Content, write: Writer, cfg: CfgNode) -> None:
    name, json_file, root = write(content)
    Image.fromarray(np.full((30, 40), 0.5, np.float32)).save(os.path.join(root, "7.png"), format="TIFF")
    assert "deep image" in check_coco_json(json_file, root).problems
    Image.fromarray(np.full((30, 40), 300, np.float32)).save(os.path.join(root, "7.png"), format="TIFF")
    assert "from 300 to 300" in check_coco_json(json_file, root).problems["deep image refused"].text()
    assert not check_coco_json(json_file, root, deep_images="image").fatal
    assert check_coco_json(json_file, root, deep_images="refuse").fatal
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [[name, json_file, root]], (name,), ()
    cfg.INPUT.DEEP_IMAGES = "image"
    ensure_datasets_sound(cfg)
    cfg.INPUT.DEEP_IMAGES = "dtype"
    with pytest.raises(UserError, match="deep image refused"):
        ensure_datasets_sound(cfg)
    cfg.INPUT.DEEP_IMAGES = "none"
    with pytest.raises(UserError, match=r"INPUT\.DEEP_IMAGES is 'none'"):
        ensure_datasets_sound(cfg)


def test_unreadable_images_pass_only_where_training_alone_replaces_them(registered: CfgNode) -> None:
    cfg, (name, json_file, root) = registered, registered.DATASETS.REGISTER[0]
    Path(root, "9.png").write_bytes(b"nonsense")
    report = check_coco_json(json_file, root)
    assert (
        report.fatal and "damaged, or of a kind that cannot be read" in report.text() and "GUARD" not in report.text()
    )
    for train, test, skipped, refused in (
        ((name,), (), 0, True),
        ((name,), (), 1, False),
        ((name,), (name,), 1, True),
        ((), (name,), 1, True),
    ):
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.GUARD.SKIP_CORRUPT_IMAGES = train, test, skipped
        with (
            pytest.raises(UserError, match=r"unreadable image .*(.|\n)*9\.png") if refused else contextlib.nullcontext()
        ):
            ensure_datasets_sound(cfg)


def test_headers_of_a_large_set_are_left_to_the_reader(
    registered: CfgNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The start passes it, and says so; the checker and the loader refuse in the same words."""
    _, json_file, root = registered.DATASETS.REGISTER[0]
    Image.new("RGB", (41, 30)).save(os.path.join(root, "8.png"))
    monkeypatch.setattr("adet_iuq.data.registration.soundness.MOST_HEADERS", 2)
    with caplog.at_level(logging.INFO):
        ensure_datasets_sound(registered)
    assert "has 3 images: they are not opened before the training" in caplog.text
    words = check_coco_json(json_file, root).problems["size disagrees"].examples[0]
    with pytest.raises(UserError, match=re.escape(words)):
        list(itertools.islice(build_train_loader(registered, images_per_batch=2), 2))
    os.unlink(os.path.join(root, "9.png"))  # that is seen without opening any
    with pytest.raises(UserError, match="missing image"):
        ensure_datasets_sound(registered)


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


def test_training_refuses_with_the_checkers_words(registered: CfgNode, content: Content) -> None:
    json_file, root = registered.DATASETS.REGISTER[0][1:]
    change(0, segmentation=[[1, 2, 3, 4]])(content)
    Path(json_file).write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        ensure_datasets_sound(registered)
    assert check_coco_json(json_file, root, training=True).text() in str(caught.value)
    registered.DATASETS.CHECK = False
    ensure_datasets_sound(registered)


@pytest.mark.parametrize("lvis", [False, True])
def test_an_image_deleted_from_a_subfolder_is_missed(
    lvis: bool, registered: CfgNode, content: Content, cfg: CfgNode
) -> None:
    name, json_file, root = registered.DATASETS.REGISTER[0]
    os.mkdir(os.path.join(root, "sub"))
    for image in content["images"][1:]:
        os.rename(os.path.join(root, image["file_name"]), os.path.join(root, "sub", image["file_name"]))
        image["file_name"] = f"sub/{image['file_name']}"
    if lvis:
        content["images"] = content["images"][1:]
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/{image.pop('file_name')}"
    Path(json_file).write_text(json.dumps(content))
    checked = f"{name}_lvis" if lvis else name
    if lvis:  # as detectron2 registers it
        DatasetCatalog.register(checked, list)
        MetadataCatalog.get(checked).set(json_file=json_file, image_root=root, evaluator_type="lvis")
    else:
        register_datasets(cfg)
    check_registered(checked, training=True)
    os.unlink(os.path.join(root, "sub", "9.png"))
    with pytest.raises(UserError, match=r"sub/9\.png"):
        check_registered(checked, training=True)


def test_verdict_is_kept_until_something_changes(registered: CfgNode, content: Content, monkeypatch: Any) -> None:
    calls = []

    def counting(*arguments: Any, **keywords: Any) -> Report:
        calls.append(arguments)
        return check_coco_json(*arguments, **keywords)

    monkeypatch.setattr("adet_iuq.data.registration.soundness.check_coco_json", counting)
    json_file, root = registered.DATASETS.REGISTER[0][1:]
    ensure_datasets_sound(registered)
    ensure_datasets_sound(registered)
    assert len(calls) == 1
    os.unlink(os.path.join(root, "9.png"))
    for _ in range(2):  # a refusal is not kept
        with pytest.raises(UserError, match="missing image"):
            ensure_datasets_sound(registered)
    assert len(calls) == 3
    Image.new("RGB", (40, 30)).save(os.path.join(root, "9.png"))
    ensure_datasets_sound(registered)
    content["annotations"][0]["category_id"] = 5
    Path(json_file).write_text(json.dumps(content))
    with pytest.raises(UserError, match="category_id 5"):
        ensure_datasets_sound(registered)
