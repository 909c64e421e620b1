"""The conversion of the embryos' export: which picture goes where, scaled how, and the finished set again."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from preparation import known_checksums, verify
from prepare_embryos import LONGEST_SIDE, chosen, geometry, main, read_export, scaled, write

from adet_iuq.errors import EXIT_USER_ERROR, UserError
from helpers.data_folder import DATA

NAMES = {1: "correct stage", 2: "incorrect stage"}
SQUARE = [100.0, 200.0, 300.0, 200.0, 300.0, 400.0, 100.0, 400.0]  # of a picture of 1024 x 784
SLIVER = [10.0, 10.0, 400.0, 10.0, 400.0, 11.0]
PICTURES = {
    "train": ["2d30-1_jpg.rf.bb.jpg", "2d30-1_jpg.rf.aa.jpg", "7d44-3_jpg.rf.cc.jpg", "7d44-3_jpg.rf.bb.jpg"],
    "valid": ["6d40-2_jpg.rf.aa.jpg"],
    "test": ["7d44-3_jpg.rf.zz.jpg", "1d30-1-1_jpg.rf.aa.jpg"],
}


def write_export(root: Path, split: str, records: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    (root / split).mkdir(parents=True, exist_ok=True)
    categories = [{"id": 0, "name": "embryos"}, *({"id": i, "name": name} for i, name in NAMES.items())]
    content = {"categories": categories, "images": records, "annotations": annotations}
    (root / split / "_annotations.coco.json").write_text(json.dumps(content))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A clone whose folder `data` is an export of seven pictures with two embryos each, one of them a sliver."""
    root = tmp_path / "clone/data"
    for split, names in PICTURES.items():
        records: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, name in enumerate(names):
            records.append({"id": number, "file_name": name, "width": 1024, "height": 784})
            for polygon in (SQUARE, SLIVER):
                annotations.append({"id": len(annotations), "image_id": number, "category_id": 1 + number % 2})
                annotations[-1]["segmentation"] = [polygon]
        write_export(root, split, records, annotations)
        for name in names:
            Image.new("RGB", (1024, 784), (len(name), 90, 90)).save(root / split / name)
    return root.parent


def sources(path: Path) -> list[str]:
    return [image["source"] for image in json.loads(path.read_text())["images"]]


def test_whole_sessions_are_held_out_and_val_has_a_photo_once(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out")
    assert sources(tmp_path / "out/train.json") == [PICTURES["test"][1], PICTURES["train"][1], PICTURES["train"][0]]
    assert sources(tmp_path / "out/val.json") == [PICTURES["test"][0], PICTURES["valid"][0]]


def test_pictures_and_annotations_are_scaled_together(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out")
    data = json.loads((tmp_path / "out/train.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["0001.jpg", "0002.jpg", "0003.jpg"]
    for image in data["images"]:
        assert Image.open(tmp_path / "out/train" / image["file_name"]).size == (image["width"], image["height"])
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (LONGEST_SIDE, 392)
    assert [annotation["image_id"] for annotation in data["annotations"]] == [1, 2, 3]  # no sliver
    assert data["annotations"][0] == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "area": 10000.0,
        "bbox": [50.0, 100.0, 100.0, 100.0],
        "segmentation": [[50.0, 100.0, 150.0, 100.0, 150.0, 200.0, 50.0, 200.0]],
        "label": "incorrect stage",
    }


def test_polygons_end_at_the_border_and_need_three_points() -> None:
    assert scaled([[-4.0, 2.0, 30.0, 2.0, 30.0, 90.0], [1.0, 1.0, 2.0, 2.0]], (0.5, 0.25), (10, 20)) == [
        [0.0, 0.5, 10.0, 0.5, 10.0, 20.0]
    ]
    assert geometry([]) is None


def test_an_unfit_source_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--source", str(source), "--output", str(tmp_path / "out")]
    assert main(arguments) == EXIT_USER_ERROR  # seven pictures are not the known set
    assert "does not list the known images" in capsys.readouterr().err
    Image.new("RGB", (100, 80)).save(source / "data/train" / PICTURES["train"][0])
    with pytest.raises(UserError, match="does not have the size that its record says"):
        write(source, tmp_path / "other")
    (source / "data/valid/_annotations.coco.json").unlink()
    with pytest.raises(UserError, match="is missing; the export has test, valid, train"):
        read_export(source)
    with pytest.raises(UserError, match="holds 0 folders with train/_annotations"):
        read_export(tmp_path / "out")


@pytest.mark.skipif(not (DATA / "embryos").exists(), reason="needs $ADET_IUQ_DATA/embryos")
def test_an_export_of_the_finished_set_gives_its_json_files(tmp_path: Path) -> None:
    """Ids, order, split, classes and geometry; the pictures are compressed once more, which the checksums notice."""
    ids = {name: number for number, name in NAMES.items()}
    exported: dict[str, tuple[list[Any], list[Any]]] = {split: ([], []) for split in PICTURES}
    for split in ("val", "train"):
        data = json.loads((DATA / f"embryos/{split}.json").read_text())
        where = {}
        for image in reversed(data["images"]):
            records, _ = exported[image["published_split"]]
            where[image["id"]] = (image["published_split"], len(records))
            records.append({**image, "file_name": image["source"], "id": len(records)})
            (tmp_path / image["published_split"]).mkdir(exist_ok=True)
            picture = (DATA / "embryos" / split / image["file_name"]).read_bytes()
            (tmp_path / image["published_split"] / image["source"]).write_bytes(picture)
        for annotation in data["annotations"]:
            published, number = where[annotation["image_id"]]
            exported[published][1].append({**annotation, "image_id": number, "category_id": ids[annotation["label"]]})
    for published, (records, annotations) in exported.items():
        write_export(tmp_path, published, records, annotations)
    write(tmp_path, tmp_path / "out")
    for split in ("train", "val"):
        made, known = tmp_path / "out", DATA / "embryos"
        assert json.loads((made / f"{split}.json").read_text()) == json.loads((known / f"{split}.json").read_text())
    with pytest.raises(UserError, match="Masks and names agree, so the set serves"):
        verify(tmp_path / "out", known_checksums("embryos"))


def test_choosing_keeps_the_first_picture_of_a_photo(source: Path) -> None:
    pictures, names = read_export(source)
    assert len(pictures) == 7 and names[2] == "incorrect stage"
    assert [p.folder.name for p in chosen(pictures, "val")] == ["test", "valid"]
