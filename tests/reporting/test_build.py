"""The page, from folders of runs that are made by hand."""

import copy
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adet_iuq.errors import UserError
from adet_iuq.reporting.__main__ import main
from adet_iuq.reporting.build import build_report
from helpers.golden import REPOSITORY
from helpers.report_run import DETECTIONS, EVIL, OBJECTS, detection, square, truth, write_metrics, write_set


class Reader(HTMLParser):
    """What a browser would make of a page: elements, what they fetch, and their text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attributes:
            if name in ("src", "srcset", "data", "action") or (tag == "link" and name == "href"):
                self.fetched.append(value or "")
            elif name in ("href", "xlink:href"):
                self.links.append(value or "")
            assert not name.startswith("on"), (tag, name)

    def handle_data(self, data: str) -> None:
        self.text = " ".join([*self.text.split(), *data.split()])


def run_folder(place: Path, *, trained: bool = False) -> Path:
    """One that was evaluated on one set; `trained`: with the numbers of a training."""
    folder = place / "run"
    if trained:
        write_metrics(folder)
    write_set(folder, "val", truth(OBJECTS), copy.deepcopy(DETECTIONS))
    return folder


def page(folder: Path) -> Reader:
    return Reader(build_report(folder).read_text())


def test_a_whole_report(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, trained=True)
    (folder / "config.yaml").write_text("SEED: 5\nSOLVER:\n  MAX_ITER: 200\nMODEL:\n  META_ARCHITECTURE: Some & Any\n")
    found = page(folder)
    assert "96 of 200 iterations" in found.text and "Some & Any" in found.text
    assert "2 images with 4 objects" in found.text and "The highest F1, 0.400 , is at a score of 0.900" in found.text
    assert found.text.count("segm 10.00 25.00") == 1 and "bbox 12.50 -" in found.text
    # AP, two losses, learning rate; precision and recall, F1. The auxiliary loss has no diagram.
    assert found.tags["svg"] == 6
    assert found.tags["img"] == 4  # two images with mistakes, ground truth beside predictions
    assert "1.png F1 0.67: 1 right, 0 wrong, 1 missed" in found.text
    assert "No training images" in found.text


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, trained=True)
    found = page(folder)
    assert all(url.startswith("data:image/jpeg;base64,") for url in found.fetched) and found.fetched
    assert all(link.startswith("#") for link in found.links)
    assert found.tags["script"] == found.tags["link"] == found.tags["iframe"] == 0
    text = (folder / "report.html").read_text()
    assert "@import" not in text and "url(#" in text and "url(" not in text.replace("url(#", "")
    assert "default-src 'none'" in text
    assert len(text) < 2e6


def test_names_are_escaped(tmp_path: Path) -> None:
    """Of classes, image files, data sets, the folder, and in the config."""
    name = "<b>val<script>"
    folder = tmp_path / "<i>run"
    content = truth(OBJECTS, names=(EVIL, "dog"))
    content["images"][0]["file_name"] = "<img src=x onerror=alert(1)>.png"
    write_set(folder, name, content, copy.deepcopy(DETECTIONS), {"segm": {"AP": 1.0, f"AP-{EVIL}": 2.0}})
    (folder / "config.yaml").write_text(f'OUTPUT_DIR: "{EVIL}"\n')
    found = page(folder)
    assert found.tags["script"] == found.tags["i"] == 0 and found.tags["img"] == 4
    assert EVIL in found.text and name in found.text and "<img src=x onerror=alert(1)>.png" in found.text


def test_several_sets_and_their_mosaics(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    write_set(
        folder,
        "val_mosaic",
        truth(OBJECTS),
        copy.deepcopy(DETECTIONS),
        {"segm": {"AP": 5.0}, "mosaic": {"leak_rate": 0.5}},
    )
    found = page(folder)
    assert "val_mosaic" in found.text and "leak_rate" in found.text
    assert found.tags["svg"] == 4 and found.tags["img"] == 8


def test_no_annotations(tmp_path: Path) -> None:
    """A test-dev: results are empty, and the server's file is named."""
    folder = tmp_path / "run"
    content = truth([])
    del content["annotations"]
    write_set(folder, "test_dev", content, copy.deepcopy(DETECTIONS), {})
    found = page(folder)
    assert "has no annotations to compare with" in found.text and "coco_instances_results.json" in found.text
    assert found.tags["svg"] == 0 and "No curves: the folder has no metrics.json" in found.text


def test_no_predictions(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_set(folder, "val", truth(OBJECTS), [])
    found = page(folder)
    assert "The model detected nothing" in found.text and "stands in for it" in found.text
    assert "cat 0 0 3" in found.text  # all cats are background
    assert "2.png F1 0.00: 0 right, 0 wrong, 2 missed" in found.text


def test_boxes_without_masks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    boxes = [{key: value for key, value in one.items() if key != "segmentation"} for one in DETECTIONS]
    write_set(folder, "val", truth(OBJECTS), boxes, {"bbox": {"AP": 1.0}}, task="bbox")
    found = page(folder)
    assert "an IoU of boxes of at least 0.5" in found.text and found.tags["img"] == 4


def test_panoptic_results_have_a_table_each(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    results = {"panoptic_seg": {"PQ": 40.0}, "sem_seg": {"mIoU": 50.0}, "segm": {"AP": 30.0}}
    write_set(folder, "val", truth(OBJECTS), copy.deepcopy(DETECTIONS), results)
    (folder / "results.json").write_text(json.dumps({"val": results, "maps_only": {"panoptic_seg": {"PQ": 1.0}}}))
    found = page(folder)
    assert all(text in found.text for text in ("PQ panoptic_seg 40.00", "mIoU sem_seg 50.00", "AP segm 30.00"))
    assert "this evaluation left no note of its ground truth" in found.text  # of maps_only


def test_many_classes_stay_readable(tmp_path: Path) -> None:
    """LVIS's 1203: twenty have a row, the others share one."""
    folder = tmp_path / "run"
    names = {n: f"class {n}" for n in range(1, 1204)}
    objects = [square(n % 5 * 10, n % 3 * 10, category=n, image=1 + n % 40) for n in range(1, 301)]
    detections = [
        detection(n % 5 * 10, n % 3 * 10, n / 301, category=n + n % 2, image=1 + n % 40) for n in range(1, 301)
    ]
    content = {**truth(objects, 40), "categories": [{"id": n, "name": name} for n, name in names.items()]}
    for image in content["images"]:
        image.update(neg_category_ids=list(range(1, 1204, 2)), not_exhaustive_category_ids=[])
    write_set(folder, "lvis", content, detections, {"segm": {"AP": 1.0}}, rules="lvis", max_detections=300)
    found = page(folder)
    assert "other classes" in found.text and found.tags["td"] < 1200
    assert len((folder / "report.html").read_text()) < 6e6


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, trained=True)
    (folder / "inference" / "val" / "coco_instances_results.json").unlink()
    assert "coco_instances_results.json, is not there any more" in page(folder).text
    (folder / "inference" / "val" / "evaluation.json").write_text("{")
    assert "cannot be read" in page(folder).text
    (folder / "results.json").unlink()
    assert "the run has not been evaluated (yet)" in page(folder).text
    assert "It is not known: the folder has neither config.yaml nor report.json" in page(folder).text


def test_a_missing_image_leaves_the_others(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (tmp_path / "data_val" / "2.png").unlink()
    found = page(folder)
    assert found.tags["img"] == 2 and "2.png does not exist" in found.text


def test_pictures_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adet_iuq.reporting.build._PICTURE_BYTES", 90_000)
    found = page(run_folder(tmp_path))
    assert found.tags["img"] == 2 and "1 of 2 have room on this page" in found.text


def test_a_moved_folder_keeps_its_mended_ground_truth(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    place = folder / "inference" / "val"
    (tmp_path / "data_val" / "truth.json").rename(place / "ground_truth.json")
    noted = json.loads((place / "evaluation.json").read_text())
    (place / "evaluation.json").write_text(json.dumps({**noted, "ground_truth": "ground_truth.json"}))
    folder.rename(tmp_path / "elsewhere")
    assert page(tmp_path / "elsewhere").tags["img"] == 4


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path)
    assert main([str(folder)]) == 0 and str(folder / "report.html") in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 2 and "no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2 and "neither metrics.json nor results.json" in capsys.readouterr().err
    assert "adet_iuq.reporting.__main__ import main" in (REPOSITORY / "tools/report.py").read_text()


def test_a_damaged_results_file_is_an_error(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    before = build_report(folder).read_text()
    (folder / "results.json").write_text('{"val": ')
    with pytest.raises(UserError, match="is damaged"):
        build_report(folder)
    assert (folder / "report.html").read_text() == before
