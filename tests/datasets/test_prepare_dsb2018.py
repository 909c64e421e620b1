"""The conversion of the Data Science Bowl's folders, on a source made from a few images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from prepare_dsb2018 import find_images, main, read_nuclei, write
from subset import images_subset

from adet_iuq.errors import EXIT_USER_ERROR, UserError
from helpers.data_folder import DATA


def write_image(source: Path, name: str, image: Image.Image, masks: list[np.ndarray]) -> Path:
    """The folder of an image as the source has it: RGBA, and one mask of 0 and 255 a nucleus."""
    folder = source / (Path(name).stem + "f" * 48)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    image.convert("RGBA").save(folder / "images" / f"{folder.name}.png")
    for number, mask in enumerate(masks):
        Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255).save(folder / "masks" / f"{number:04d}.png")
    return folder


def test_nuclei_are_read_one_mask_each(tmp_path: Path) -> None:
    masks = [np.zeros((20, 30), dtype=bool) for _ in range(3)]
    masks[0][4:9, 10:17] = True
    masks[2][0:3, 0:5] = True  # the second one is empty and left out
    folder = write_image(tmp_path, "0123456789abcdef.png", Image.new("RGB", (30, 20)), masks)
    nuclei = read_nuclei(folder)
    assert [(nucleus["area"], nucleus["bbox"]) for nucleus in nuclei] == [
        (35.0, [10.0, 4.0, 7.0, 5.0]),
        (15.0, [0.0, 0.0, 5.0, 3.0]),
    ]
    assert np.array_equal(mask_util.decode(nuclei[0]["segmentation"]) > 0, masks[0])


def test_images_that_are_not_there_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_image(tmp_path / "stage1_train", "0123456789abcdef.png", Image.new("RGB", (30, 20)), [])
    assert find_images(tmp_path, ["0123456789abcdef.png"]) == [folder]
    with pytest.raises(UserError, match=r"lacks 1 of 2 images, such as fedcba9876543210"):
        find_images(tmp_path, ["0123456789abcdef.png", "fedcba9876543210.png"])
    assert main(["--source", str(tmp_path), "--output", str(tmp_path / "out")]) == EXIT_USER_ERROR
    assert "lacks 160 of 160 images" in capsys.readouterr().err


@pytest.mark.skipif(not (DATA / "nuclei").exists(), reason="needs $ADET_IUQ_DATA/nuclei")
def test_a_source_of_finished_images_gives_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images a split; JSON and pixels are those of the data folder."""
    wanted: dict[str, dict[str, Any]] = {}
    for split in ("train", "val"):
        data = json.loads((DATA / f"nuclei/{split}.json").read_text())
        wanted[split] = images_subset(data, [1, 2])
        for image in wanted[split]["images"]:
            masks = [
                mask_util.decode(annotation["segmentation"])
                for annotation in data["annotations"]
                if annotation["image_id"] == image["id"]
            ]
            picture = Image.open(DATA / "nuclei" / split / image["file_name"])
            write_image(tmp_path / "source", image["file_name"], picture, masks)
    listed = {s: {"images": {image["file_name"]: "" for image in d["images"]}} for s, d in wanted.items()}
    monkeypatch.setattr("prepare_dsb2018.known_checksums", lambda name: listed)
    write(tmp_path / "source", tmp_path / "out")
    for split, data in wanted.items():
        assert json.loads((tmp_path / f"out/{split}.json").read_text()) == data
        for image in data["images"]:
            ours, theirs = (
                Image.open(folder / split / image["file_name"]) for folder in (tmp_path / "out", DATA / "nuclei")
            )
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
