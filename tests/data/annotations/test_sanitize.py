"""Whatever the pass accepts loads, and evaluates perfect predictions as perfect; what it finds is named."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances

from adet_iuq.data import check_coco_json, load_dataset, register_datasets
from adet_iuq.data.annotations.sanitize import sanitize
from adet_iuq.data.annotations.segmentation import rle_problem
from adet_iuq.data.images.facts import image_facts
from adet_iuq.evaluation import build_evaluator

Content = dict[str, Any]
Flaw = Callable[[Content], Any]

SQUARE = [[5, 6, 25, 6, 25, 16, 5, 16]]  # annotation 1 of the fixture


def each(section: str, **values: Any) -> Flaw:
    """Changes every entry of a section."""
    return lambda content: [entry.update(values) for entry in content[section]]


def first(section: str, **values: Any) -> Flaw:
    """Changes the first entry of a section."""
    return lambda content: content[section][0].update(values)


def without(section: str, key: str) -> Flaw:
    """Takes a key from every entry of a section."""
    return lambda content: [entry.pop(key) for entry in content[section]]


def more(**values: Any) -> Flaw:
    """Lists annotation 1 once more, changed, with an id of its own."""
    return lambda content: content["annotations"].append({**content["annotations"][0], "id": 70, **values})


def mixed_ids(content: Content) -> None:
    for entry in content["images"][:1]:
        entry["id"] = "seven"
    for annotation in content["annotations"][:2]:
        annotation["image_id"] = "seven"


def mixed_categories(content: Content) -> None:
    content["categories"][0]["id"] = "nine"
    for annotation in content["annotations"]:
        annotation["category_id"] = {3: 3, 9: "nine"}[annotation["category_id"]]


def run(cfg: CfgNode, folder: Path) -> dict[str, dict[str, float]]:
    """What the project's evaluator says of the records' own masks and boxes; crowds are not predicted."""
    register_datasets(cfg)
    name = cfg.DATASETS.TEST[0]
    cfg.MODEL.MASK_ON = True
    evaluator = build_evaluator(cfg, name, str(folder))
    evaluator.reset()
    for record in load_dataset(name):
        height, width = record["height"], record["width"]
        kept = [a for a in record["annotations"] if not a["iscrowd"]]
        rles = [a["segmentation"] for a in kept]
        rles = [mask_util.merge(mask_util.frPyObjects(s, height, width)) if isinstance(s, list) else s for s in rles]
        masks = np.stack([mask_util.decode(rle) for rle in rles]) if rles else np.zeros((0, height, width))
        instances = Instances((height, width))
        instances.pred_masks = torch.from_numpy(masks).bool()
        instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
        instances.scores = torch.full((len(rles),), 0.9)
        instances.pred_classes = torch.tensor([a["category_id"] for a in kept], dtype=torch.int64)
        evaluator.process([record], [{"instances": instances}])
    results: dict[str, dict[str, float]] = evaluator.evaluate()
    return results


FINE: list[tuple[str | None, Flaw]] = [
    (None, without("annotations", "iscrowd")),
    (None, first("annotations", iscrowd=None)),
    (None, first("annotations", iscrowd="0")),
    (None, first("annotations", iscrowd=False)),
    ("iscrowd neither 0 nor 1", first("annotations", iscrowd=-1)),
    ("iscrowd neither 0 nor 1", first("annotations", iscrowd="perhaps")),
    (None, without("annotations", "area")),
    (None, each("annotations", area=None)),
    ("area that is no positive number", each("annotations", area=0)),
    ("area that is no positive number", first("annotations", area=-200)),
    ("area that is no positive number", first("annotations", area=math.nan)),
    ("area that is no positive number", first("annotations", area="200")),
    ("area far from the mask's", first("annotations", area=20000)),
    ("area that is no positive number", first("annotations", area=10**400)),
    ("no valid box", without("annotations", "bbox")),
    ("no valid box", first("annotations", bbox=None)),
    ("no valid box", first("annotations", bbox="5 6 20 10")),
    ("no valid box", first("annotations", bbox={"x": 5})),
    ("no valid box", first("annotations", bbox=[25, 16, -20, -10])),
    ("no valid box", first("annotations", bbox=[5, 6, 0, 10])),
    ("no valid box", first("annotations", bbox=[5, 6, 10**400, 10])),
    ("box outside the image", first("annotations", bbox=[-50, -60, 20, 10])),
    ("box outside the image", first("annotations", bbox=[5, 6, 1e308, 1e307])),
    ("box far from its mask", first("annotations", bbox=[0.1, 0.2, 0.5, 0.3])),
    ("box far from its mask", first("annotations", bbox=[5, 6, 25, 16])),
    ("box far from its mask", first("annotations", bbox=[5, 6, 16, 10])),
    ("box far from its mask", first("annotations", bbox=[5, 3, 20, 13])),
    ("annotation without id", first("annotations", id=None)),
    ("annotation id that is no positive whole number", first("annotations", id="one")),
    ("annotation id that is no positive whole number", first("annotations", id=-1)),
    ("annotation id that is no positive whole number", first("annotations", id=[1])),
    ("annotation id that is no positive whole number", first("annotations", id=10**400)),
    ("annotation id 0", first("annotations", id=0)),
    ("duplicate annotation id", each("annotations", id=5)),
    ("annotation listed twice", more(id=1)),
    ("duplicate annotation", more()),
    ("image size not in the file", without("images", "height")),
    ("image size not in the file", each("images", width=-1, height=-1)),
    ("image size not in the file", first("images", width="wide", height=30)),
    ("image size not in the file", first("images", width=0, height=math.nan)),
    ("image size in words", each("images", width="40", height="30")),
    (None, each("images", width=40.0, height=30.0)),
    ("image ids that do not sort together", mixed_ids),
    (None, mixed_categories),
    ("image_id of another type", first("annotations", image_id="7")),
    ("category_id of another type", first("annotations", category_id="3")),
    ("annotation of an unknown image", more(image_id=[7])),
    ("annotation of an unknown image", more(image_id=None)),
    ("two categories of one name", each("categories", name="cell")),
    (None, each("categories", name=None)),
    ("category without id", lambda content: content["categories"].append({"name": "cow"})),
    ("incomplete image entry", lambda content: content["images"].append({"id": None, "file_name": "7.png"})),
    ("incomplete image entry", lambda content: content["images"].append({"id": 50, "file_name": None})),
    ("duplicate image id", lambda content: content["images"].append(dict(content["images"][0]))),
    ("polygon in another form", first("annotations", segmentation=SQUARE[0])),
    ("polygon in another form", first("annotations", segmentation=[[5, 6], [25, 6], [25, 16], [5, 16]])),
    ("polygon in another form", first("annotations", segmentation=[[[5, 6], [25, 6], [25, 16], [5, 16]]])),
    ("polygon in another form", first("annotations", segmentation=[[str(value) for value in SQUARE[0]]])),
    ("mask without area", more(segmentation=[[5, 5, 15, 5, 10, 5]])),
    ("mask without area", more(segmentation=[[100, 100, 120, 100, 120, 120]])),
    ("mask without area", more(segmentation=[[5, 5, 5.2, 5, 5.2, 25, 5, 25]])),
    ("mask without area", more(segmentation=[[2, 2, 38, 28, 38.02, 28, 2.02, 2]])),
    ("mask without area", more(segmentation={"size": [30, 40], "counts": [1200]})),
    ("broken run-length mask", more(segmentation={"size": "30x40", "counts": [1200]})),
    ("coordinates far outside the image", first("annotations", segmentation=[[5, 6, 3.5e8, 6, 25, 16, 5, 16]])),
    ("coordinates far outside the image", first("annotations", segmentation=[[5, 6, 1e308, -1e308, 25, 16, 5, 16]])),
]


@pytest.mark.parametrize(("kind", "flaw"), FINE)
def test_perfect_predictions_are_perfect(
    kind: str | None, flaw: Flaw, registered: CfgNode, content: Content, tmp_path: Path
) -> None:
    flaw(content)
    json_file, root = registered.DATASETS.REGISTER[0][1:]
    Path(json_file).write_text(json.dumps(content))
    report = check_coco_json(json_file, root)
    assert not report.fatal, report.text()
    assert kind is None or kind in report.problems, report.text()
    assert set(report.problems) <= {kind, "crowd", "area far from the mask's", "duplicate annotation"}, report.text()
    results = run(registered, tmp_path / "out")
    for task in ("bbox", "segm"):
        values = {name: value for name, value in results[task].items() if not math.isnan(value)}
        assert values.pop("AP") == pytest.approx(100) and "APs" in values
        assert all(value == pytest.approx(100) for value in values.values()), values


def test_a_sound_content_is_returned_itself(content: Content) -> None:
    found, report = sanitize(content, image_facts, json_file="a.json", image_root="images")
    assert found is content and not report.mended


WIDE = [[20, 6, 30, 6, 30, 16, 20, 16]]
LARGE = [[0, 0, 100, 0, 100, 80, 0, 80]]
BOXES = [
    ([20, 6, 30, 16], WIDE, [20, 6, 10, 10], "the mask's is [20.0, 6.0, 10.0, 10.0]; it looks like x1, y1, x2, y2"),
    ([195, 6, 200, 16], [[195, 6, 200, 6, 200, 16, 195, 16]], [195, 6, 5, 10], "it looks like x1, y1, x2, y2"),
    ([20, 6, 10, 13], WIDE, [20, 6, 10, 10], "[20, 6, 10, 13], the mask's is [20.0, 6.0, 10.0, 10.0]"),
    ([21, 5, 8, 12], WIDE, [21, 5, 8, 12], None),  # by two pixels
    ([0, 0, 105, 84], LARGE, [0, 0, 105, 84], None),  # by a twentieth of each side
    ([0, 0, 106, 80], LARGE, [0, 0, 100, 80], "[0, 0, 106, 80], the mask's is [0.0, 0.0, 100.0, 80.0]"),
    # A crumb that covers no pixel, and corners that lie outside the image: a box goes around what can be seen.
    (
        [20, 6, 60.3, 54.3],
        [*WIDE, [80, 60, 80.2, 60, 80.2, 60.2]],
        [20, 6, 10, 10],
        "the mask's is [20.0, 6.0, 10.0, 10.0]",
    ),
    ([0, -9, 90, 29], [[0, -9, 90, 20, 90, -9]], [29, 0, 61, 20], "[0, -9, 90, 29] in 200 x 100"),
    ([5, 4, 25, 22], [*WIDE, [5, 20, 6, 20]], [20, 6, 10, 10], "the mask's is [20.0, 6.0, 10.0, 10.0]"),
]


@pytest.mark.parametrize(("given", "segmentation", "expected", "words"), BOXES)
def test_boxes_fit_their_masks(
    given: Any, segmentation: Any, expected: Any, words: str | None, content: Content
) -> None:
    each("images", height=100, width=200)(content)
    content["annotations"] = [{**content["annotations"][0], "segmentation": segmentation, "bbox": given}]
    found, report = sanitize(content, image_facts, json_file="a.json", image_root="images")
    assert found["annotations"][0]["bbox"] == expected
    findings = [problem for kind, problem in report.problems.items() if "box" in kind]
    if words is None:
        assert not findings
    else:
        (problem,) = findings
        outside = words.endswith("in 200 x 100")
        assert problem.kind == ("box outside the image" if outside else "box far from its mask")
        assert words in problem.examples[0]
        assert problem.examples[0].endswith("x1, y1, x2, y2") == words.endswith("y2")


def test_the_rough_box_of_a_crowd_stays(content: Content) -> None:
    first("annotations", bbox=[5, 3, 20, 13], iscrowd=1)(content)
    found, report = sanitize(content, image_facts, json_file="a.json", image_root="images")
    assert found["annotations"][0]["bbox"] == [5, 3, 20, 13] and list(report.problems) == ["crowd"]


def test_a_word_for_an_area_is_seen_as_one(content: Content) -> None:
    first("annotations", area="300")(content)
    _, report = sanitize(content, image_facts, json_file="a.json", image_root="images")
    assert report.problems["area that is no positive number"].examples == [
        "annotation 1 of 7.png: '300', the mask has 200"
    ]


def test_areas_decide_sizes(registered: CfgNode, content: Content, tmp_path: Path) -> None:
    """The truth's area is the mask's: an object of 200 pixels is small, whatever `area` says."""
    each("annotations", area=5000)(content)
    Path(registered.DATASETS.REGISTER[0][1]).write_text(json.dumps(content))
    results = run(registered, tmp_path / "out")["segm"]
    assert results["APs"] == pytest.approx(100) and math.isnan(results["APm"])


def test_a_missing_size_that_no_file_tells(registered: CfgNode, content: Content) -> None:
    json_file, root = registered.DATASETS.REGISTER[0][1:]
    content["images"][0].update(width=-1, file_name="gone.png")
    Path(json_file).write_text(json.dumps(content))
    problem = check_coco_json(json_file, root).problems["image without a size"]
    assert problem.fatal and "gone.png (image id 7): width -1" in problem.examples[0]


def test_two_images_with_one_id(registered: CfgNode, content: Content, tmp_path: Path) -> None:
    content["images"][1]["id"] = 7
    json_file, root = registered.DATASETS.REGISTER[0][1:]
    Path(json_file).write_text(json.dumps(content))
    report = check_coco_json(json_file, root)
    assert report.problems["two images with one id"].fatal and "id 7: 7.png and 8.png" in report.text()
    register_datasets(registered)
    assert [record["image_id"] for record in load_dataset(registered.DATASETS.TEST[0])] == [9]


def test_names_told_apart(registered: CfgNode, content: Content) -> None:
    each("categories", name="cell")(content)
    Path(registered.DATASETS.REGISTER[0][1]).write_text(json.dumps(content))
    found, _ = sanitize(content, image_facts, json_file="a.json", image_root="images")
    assert [category["name"] for category in found["categories"]] == ["cell (id 9)", "cell (id 3)"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(encoding: str, registered: CfgNode, content: Content, tmp_path: Path) -> None:
    content["categories"][0]["name"] = "Kätzchen"
    text = json.dumps(content, ensure_ascii=False)
    Path(registered.DATASETS.REGISTER[0][1]).write_bytes(text.encode(encoding))
    results = run(registered, tmp_path / "out")["segm"]
    assert results["AP"] == pytest.approx(100) and "AP-Kätzchen" in results


def test_another_encoding_is_named(registered: CfgNode, content: Content) -> None:
    content["categories"][0]["name"] = "Kätzchen"
    json_file, root = registered.DATASETS.REGISTER[0][1:]
    Path(json_file).write_bytes(json.dumps(content, ensure_ascii=False).encode("latin-1"))
    text = check_coco_json(json_file, root).text()
    assert "hexadecimal e4" in text and "Latin-1" in text and "save it as UTF-8" in text


def test_canonical_form_of_everything(content: Content) -> None:
    """A tenth of a thousand annotations in chunks, each with one flaw in turn: the result is the form that is promised."""
    base = content["annotations"]
    changes: list[dict[str, Any]] = [{}, {"area": -1}, {"bbox": None}, {"iscrowd": None}, {"id": "a"}]
    changes += [{"segmentation": SQUARE[0]}, {"segmentation": [[1, 1, 2, 2]]}]
    content["annotations"] = [{**base[n % 3], "id": n + 1, **changes[n % 7]} for n in range(100)]
    found, report = sanitize(content, image_facts, json_file="a.json", image_root="images", stock=True)
    assert [a["id"] for a in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
    assert len(found["annotations"]) == 100 - report.problems["segmentation without any part of three points"].count
    for annotation in found["annotations"]:
        assert annotation["area"] > 0 and annotation["iscrowd"] == 0 and len(annotation["bbox"]) == 4
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            assert rle_problem(segmentation, 30, 40) is None
        else:
            assert all(len(part) >= 6 for part in segmentation)
