"""A training from a folder alone: the program finds what is in it, and the log says so."""

from pathlib import Path
from typing import Any

import pytest

from helpers.folders import APPLE, PEAR, write_coco, write_yolo
from helpers.toy_segmenter import toy_args, train


@pytest.mark.parametrize("layout", ["service", "yolo"])
def test_a_folder_trains_and_is_evaluated(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / f"{layout}_{tmp_path.name}"
    for split in ("train", "valid"):
        if layout == "service":
            write_coco(folder / split / "_annotations.coco.json", folder / split, ["a.JPG", "b.JPG"])
            (folder / split / "a.JPG").rename(folder / split / "a.jpg")
        else:
            write_yolo(folder / f"images/{split}", folder / f"labels/{split}", {"a.jpg": APPLE, "b.jpg": PEAR})
    if layout == "yolo":
        text = f"path: {folder}\ntrain: images/train\nval: images/valid\nnames: {{0: apple, 1: pear}}"
        (folder / "data.yaml").write_text(text)
    names: dict[str, Any] = {
        "DATASETS__TRAIN": f"('{folder.name}_train',)",
        "DATASETS__TEST": f"('{folder.name}_val',)",
    }
    results = train(toy_args(tmp_path / "out", DATASETS__REGISTER=str([str(folder)]), SOLVER__MAX_ITER=2, **names))
    assert "AP" in results["segm"]
    log = (tmp_path / "out/log.txt").read_text()
    assert f"{folder} is taken for " in log and f"{folder.name}_val: " in log
    assert log.count("(2 images, 4 annotations)" if layout == "service" else "(2 images, 2 annotations)") == 2
    assert log.count("a.JPG is a.jpg on the disk") == (
        4 if layout == "service" else 0
    )  # by the check and by the loader
