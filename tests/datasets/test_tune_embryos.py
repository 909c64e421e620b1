"""The split of the embryos' training images for tuning: whole sessions, and no image of embryos' val."""

import json
from pathlib import Path

import pytest
from prepare_embryos import VAL_SESSIONS, session_of
from tune_embryos import TUNE_VAL_SESSIONS, main, tuning_split

from helpers.data_folder import DATA

SOURCES = [
    "1d30-1_jpg.rf.a.jpg",
    "3d30-1_jpg.rf.b.jpg",
    "2d30-10_jpg.rf.c.jpg",
    "6d30collection_12s30pm-1-1_jpg.rf.d.jpg",
]


def test_whole_sessions_are_held_out() -> None:
    images = [{"id": number, "source": source} for number, source in enumerate(SOURCES, start=1)]
    annotations = [{"id": 10 * number, "image_id": number, "category_id": 1} for number in range(1, 5)]
    parts = tuning_split({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "embryo"}]})
    assert [image["id"] for image in parts["train"]["images"]] == [2, 4]
    assert [annotation["id"] for annotation in parts["val"]["annotations"]] == [10, 30]
    assert session_of(SOURCES[3]) == "6d30collection_12s30pm"
    assert not set(TUNE_VAL_SESSIONS) & set(VAL_SESSIONS)


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", str(tmp_path / "train.json"), "--output", str(tmp_path)]) == 2
    assert "train.json does not exist; datasets/README.md says how to make it" in capsys.readouterr().err


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("ADET_IUQ_DATA", raising=False)
    assert main([]) == 2
    assert "The environment variable ADET_IUQ_DATA is not set" in capsys.readouterr().err


@pytest.mark.skipif(not (DATA / "embryos").exists(), reason="needs $ADET_IUQ_DATA/embryos")
def test_about_a_fifth_of_the_embryos_is_held_out(tmp_path: Path) -> None:
    main(["--json", str(DATA / "embryos/train.json"), "--output", str(tmp_path)])
    parts = {split: json.loads((tmp_path / f"{split}.json").read_text()) for split in ("train", "val")}
    assert {split: (len(p["images"]), len(p["annotations"])) for split, p in parts.items()} == {
        "train": (121, 3348),
        "val": (33, 973),
    }
    sessions = [{session_of(image["source"]) for image in part["images"]} for part in parts.values()]
    assert not sessions[0] & sessions[1]
