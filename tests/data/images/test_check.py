"""What the check says of image files: the words of the reader."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image

from adet_iuq.data import check_coco_json, ensure_datasets_sound
from adet_iuq.errors import UserError

Content = dict[str, Any]
Writer = Callable[..., tuple[str, str, str]]


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
