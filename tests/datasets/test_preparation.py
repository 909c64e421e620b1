"""What the preparing scripts share: sources as folders or zip files, and the comparison with the known checksums."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from preparation import checksums, known_checksums, opened, prepare, verify

from adet_iuq.errors import EXIT_USER_ERROR, UserError
from helpers.data_folder import DATA


def write_two(source: Path, folder: Path) -> None:
    """A finished data set of one image a split, whatever the source; one mask, as a polygon in train, coded in val."""
    polygon = [2.0, 1.0, 8.0, 1.0, 8.0, 6.0, 2.0, 6.0]
    coded = mask_util.merge(mask_util.frPyObjects([polygon], 10, 12))
    segmentations: dict[str, Any] = {
        "train": [polygon],
        "val": {"size": [10, 12], "counts": coded["counts"].decode()},
    }
    for split, segmentation in segmentations.items():
        (folder / split).mkdir(parents=True)
        pixels = np.arange(360, dtype=np.uint8).reshape(10, 12, 3)
        Image.fromarray(pixels).save(folder / split / "a.png")
        images = [{"id": 7, "file_name": "a.png", "width": 12, "height": 10}]
        annotations = [{"id": 1, "image_id": 7, "category_id": 1, "segmentation": segmentation}]
        (folder / f"{split}.json").write_text(json.dumps({"images": images, "annotations": annotations}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_two(tmp_path, tmp_path / "made")
    return tmp_path / "made"


def test_checksums_are_of_pixels_and_masks_not_of_how_they_are_written(folder: Path) -> None:
    before = checksums(folder)
    assert before["train"] == before["val"]
    image = Image.open(folder / "train/a.png")
    image.load()
    image.convert("RGBA").save(folder / "train/a.png", compress_level=0)
    assert checksums(folder) == before
    verify(folder, before)


def test_what_differs_is_named(folder: Path) -> None:
    listed = checksums(folder)
    Image.new("RGB", (12, 10)).save(folder / "val/a.png")
    with pytest.raises(UserError, match=r"val: images that differ from the known ones: a\.png"):
        verify(folder, listed)
    for change, words in (
        (("masks", "0" * 64), r"train\.json: the masks are not the known ones"),
        (("images", {"a.png": "", "b.png": ""}), r"train\.json does not list the known images: b\.png"),
    ):
        with pytest.raises(UserError, match=words):
            verify(folder, {**listed, "train": dict([*listed["train"].items(), change])})


def test_a_source_is_a_folder_or_a_zip_file(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.txt").write_text("content")
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        archive.write(tmp_path / "source/a.txt", "a.txt")
    for source in (tmp_path / "source", tmp_path / "source.zip"):
        with opened(source) as found:
            assert (found / "a.txt").read_text() == "content"
    (tmp_path / "cut.zip").write_bytes((tmp_path / "source.zip").read_bytes()[:30])
    for source in (tmp_path / "cut.zip", tmp_path / "absent"):
        with pytest.raises(UserError, match=r"neither a folder nor a \(whole\) zip file"), opened(source):
            pass


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        return prepare("toys", "text", "    curl it", write_two, list(arguments))

    monkeypatch.delenv("ADET_IUQ_DATA", raising=False)
    for arguments, words in (
        ([], "name it with --source:\n    curl it"),
        (["--source", str(tmp_path)], "ADET_IUQ_DATA is not set"),
        (["--source", str(tmp_path / "absent"), "--output", str(tmp_path / "made")], "neither a folder"),
    ):
        assert run(*arguments) == EXIT_USER_ERROR
        assert words in capsys.readouterr().err
    monkeypatch.setenv("ADET_IUQ_DATA", str(tmp_path))
    write_two(tmp_path, tmp_path / "known")
    monkeypatch.setattr("preparation.known_checksums", lambda name: checksums(tmp_path / "known"))
    assert run("--source", str(tmp_path)) == 0
    assert f"{tmp_path / 'toys'}: images and masks are those" in capsys.readouterr().out
    assert run("--source", str(tmp_path)) == EXIT_USER_ERROR
    assert "train.json exists. Remove" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "numbers"), [("embryos", (154, 28)), ("nuclei", (160, 50))])
def test_the_listed_sets_are_those_of_the_data_folder(name: str, numbers: tuple[int, int]) -> None:
    listed = known_checksums(name)
    assert tuple(len(listed[split]["images"]) for split in ("train", "val")) == numbers
    if not (DATA / name).exists():
        pytest.skip(f"needs $ADET_IUQ_DATA/{name}")
    verify(DATA / name, listed)
