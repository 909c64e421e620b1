"""The check at the start of a training or an evaluation, and how long its verdict is kept."""

import contextlib
import itertools
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_training_refuses_with_the_checkers_words(registered: CfgNode, content: Content) -> None:
    json_file, root = registered.DATASETS.REGISTER[0][1:]
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
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
