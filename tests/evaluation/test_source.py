import dataclasses
import json
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from adet_iuq.config import load_config
from adet_iuq.data import register_datasets
from adet_iuq.errors import UserError
from adet_iuq.evaluation.source import SOURCE_FILE, Source, read_source, write_source
from adet_iuq.reporting.data_set import read_matches
from helpers.perfect import perfect_results
from helpers.sound_set import DataSet, sound_set

SOURCE = Source("/data/a.json", "/data/images", "segm", "coco", "coco_instances_results.json", 100)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_source(str(tmp_path), SOURCE)
    assert read_source(tmp_path) == SOURCE


def test_a_file_of_the_same_folder_moves_with_it(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    own = dataclasses.replace(SOURCE, ground_truth=str(tmp_path / "old" / "ground_truth.json"))
    write_source(str(tmp_path / "old"), own)
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_source(tmp_path / "new").ground_truth == str(tmp_path / "new" / "ground_truth.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"task": "segm"}', '{"unknown": 1}'])
def test_a_damaged_note(tmp_path: Path, text: str) -> None:
    (tmp_path / SOURCE_FILE).write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        read_source(tmp_path)


def test_no_note(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_source(tmp_path)


def evaluated(folder: Path, data: DataSet, *options: str) -> tuple[CfgNode, Path]:
    """Perfect predictions of a data set, in the folder of an evaluation."""
    name, output = f"source_{folder.name}", folder / "inference"
    register = str([[name, str(data.write(folder)), str(folder)]])
    cfg = load_config(None, ["DATASETS.REGISTER", register, "DATASETS.TEST", f"('{name}',)", *options]).cfg
    register_datasets(cfg)
    perfect_results(cfg, name, output)
    return cfg, output


@pytest.mark.parametrize("flaw", ["", "a polygon of two points", "swapped sides", "ids that do not sort"])
def test_an_evaluation_notes_the_file_that_it_measured_with(tmp_path: Path, flaw: str) -> None:
    """From its files alone, every object is found again; a mended copy lies in the folder itself."""
    data = sound_set()
    if flaw == "a polygon of two points":
        data.content["annotations"].append({**data.annotation(0), "id": 100, "segmentation": [[1, 2, 3, 4]]})
    elif flaw == "swapped sides":
        for image in data.content["images"]:
            image["height"], image["width"] = image["width"], image["height"]
    elif flaw:
        data.content["images"][0]["id"] = "seven"
        for annotation in data.content["annotations"]:
            annotation["image_id"] = {7: "seven"}.get(annotation["image_id"], annotation["image_id"])
    _, folder = evaluated(tmp_path, data)
    source = read_source(folder)
    assert source.task == "segm" and source.rules == "coco" and source.image_root == str(tmp_path)
    mended = json.loads((folder / SOURCE_FILE).read_text())["ground_truth"] == "ground_truth.json"
    assert mended == (flaw in ("a polygon of two points", "ids that do not sort")) or flaw == "swapped sides"
    matches = read_matches(folder, source)
    assert matches is not None and matches.hit.sum() == matches.object_counted.sum() == 5 and matches.hit.all()


def test_boxes_only(tmp_path: Path) -> None:
    _, folder = evaluated(tmp_path, sound_set(), "MODEL.MASK_ON", "False")
    source = read_source(folder)
    matches = read_matches(folder, source)
    assert source.task == "bbox" and matches is not None and matches.hit.all()


def test_no_annotations(tmp_path: Path) -> None:
    data = sound_set()
    objects = data.content.pop("annotations")
    name = "source_without_annotations"
    register = str([[name, str(data.write(tmp_path)), str(tmp_path)]])
    cfg = load_config(None, ["DATASETS.REGISTER", register, "DATASETS.TEST", f"('{name}',)"]).cfg
    register_datasets(cfg)
    from adet_iuq.data import build_test_loader
    from adet_iuq.evaluation import build_evaluator
    from helpers.toy_segmenter import one_instance

    evaluator = build_evaluator(cfg, name, str(tmp_path / "inference"))
    evaluator.reset()
    for batch in build_test_loader(cfg, name):
        evaluator.process(batch, [{"instances": one_instance(one)} for one in batch])
    evaluator.evaluate()
    assert objects and read_matches(tmp_path / "inference", read_source(tmp_path / "inference")) is None
