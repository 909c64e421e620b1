"""Registration of data sets, class counts, and reading users' JSON files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances

from adet_iuq.config.num_classes import num_classes_sections
from adet_iuq.data import fill_class_counts, load_dataset, register_datasets
from adet_iuq.data.annotations.records import Records
from adet_iuq.data.registration import datasets
from adet_iuq.data.registration.class_counts import class_counts
from adet_iuq.errors import UserError
from helpers.data_folder import DATA

Content = dict[str, Any]
Writer = Callable[..., tuple[str, str, str]]
COCO = DATA / "coco_tiny/coco"


def test_own_data_set(registered: CfgNode) -> None:
    register_datasets(registered)
    register_datasets(registered)
    name, json_file, root = registered.DATASETS.REGISTER[0]
    metadata = MetadataCatalog.get(name)
    assert (metadata.json_file, metadata.image_root, metadata.evaluator_type) == (json_file, root, "coco")
    assert metadata.thing_classes == ["dog", "cat"]  # by id, not by place in the file
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 9: 1}
    records = load_dataset(name)
    assert [record["image_id"] for record in records] == [7, 8, 9]
    assert [a["category_id"] for a in records[0]["annotations"]] == [0, 1]
    assert [a["iscrowd"] for a in records[1]["annotations"]] == [0, 1]
    assert records[0]["file_name"] == f"{root}/7.png"


def test_image_ids_may_be_words(content: Content, write: Writer, cfg: CfgNode) -> None:
    for entry in content["images"]:
        entry["id"] = f"img-{entry['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"img-{annotation['image_id']}"
    content["images"].append({"id": 5, "file_name": "5.png", "height": 30, "width": 40})
    name, *paths = write(content)
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN = [[name, *paths]], (name,)
    register_datasets(cfg)
    records = load_dataset(name)
    assert [record["image_id"] for record in records] == [5, "img-7", "img-8", "img-9"]
    assert [len(record["annotations"]) for record in records] == [0, 2, 2, 0]


def test_flawed_annotations_are_left_out_or_mended(
    content: Content, write: Writer, cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = content["annotations"][:2]
    content["annotations"] += [
        dict(first),  # the same again
        {**first, "bbox": [5, 6, 20, 9]},  # the same id, another content
        {**first, "id": 20, "image_id": 1000},
        {**first, "id": 21, "segmentation": [[1, 2, 3, 4]]},
        {**second, "id": 22, "segmentation": {"size": [30, 40], "counts": "zz"}},
        {**first, "id": 27, "segmentation": [[5, 5, 5, 5, 5, 5]]},
        {**second, "id": 28, "segmentation": {"size": [30, 40], "counts": [1200]}},
        {"id": 23, "image_id": 9, "category_id": 3, "segmentation": [[3, 4, 9, 4, 9, 20], [1, 1, 2, 2]]},
        {**second, "id": 24, "image_id": 9, "bbox": [0, 0, 0, 0]},
        {**second, "id": 25, "image_id": 9, "bbox": [60, 3, 10, 6], "ignore": 1},
        {**second, "id": 26, "image_id": 9, "segmentation": {"size": [30, 40], "counts": [30, 60, 1110]}},
    ]
    for key in ("height", "width"):
        del content["images"][0][key]
    name, *paths = write(content)
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN = [[name, *paths]], (name,)
    register_datasets(cfg)
    records = load_dataset(name)
    assert (records[0]["height"], records[0]["width"]) == (30, 40)
    assert [a["bbox"] for a in records[0]["annotations"]] == [[5, 6, 20, 10], [2, 3, 10, 6], [5, 6, 20, 9]]
    last = records[2]["annotations"]
    assert [a["bbox"] for a in last] == [[3, 4, 6, 16], [2, 3, 10, 6], [2, 3, 10, 6], [1, 0, 2, 30]]
    assert last[0]["segmentation"] == [[3, 4, 9, 4, 9, 20]]
    assert [a["iscrowd"] for a in last] == [0, 0, 1, 0]
    assert isinstance(last[3]["segmentation"]["counts"], bytes)
    for warning in ("2 x mask without area", "1 x broken run-length mask", "1 x segmentation without any part"):
        assert warning in caplog.text


def test_wrong_entries(cfg: CfgNode, content: Content, write: Writer) -> None:
    name, json_file, root = write(content)
    for entry in ([name, json_file], 5, [], [name, json_file, 5], [name, json_file, root, root]):
        cfg.DATASETS.REGISTER = [entry]
        with pytest.raises(UserError, match="not a triple"):
            register_datasets(cfg)
    for taken in ("coco_2017_train", "shapes_val"):
        cfg.DATASETS.REGISTER = [[taken, json_file, root]]
        with pytest.raises(UserError, match=f"'{taken}' belongs to a built-in"):
            register_datasets(cfg)
    cfg.DATASETS.REGISTER = [[name, json_file, root], [name, root + "/other.json", root]]
    with pytest.raises(UserError, match=f"'{name}' already stands for {json_file}"):
        register_datasets(cfg)


def test_missing_files_matter_only_where_they_are_used(cfg: CfgNode, content: Content, write: Writer) -> None:
    name, json_file, root = write(content)
    cfg.DATASETS.REGISTER = [[f"{name}_a", json_file, "/no/images"], [f"{name}_b", "/no/file.json", root]]
    register_datasets(cfg)
    cfg.DATASETS.TRAIN = (f"{name}_a",)
    with pytest.raises(UserError, match="image folder /no/images does not exist"):
        register_datasets(cfg)
    cfg.DATASETS.TRAIN = (f"{name}_b",)
    with pytest.raises(UserError, match=r"JSON file /no/file\.json does not exist"):
        register_datasets(cfg)


def test_unknown_names(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN = ("coco_2017_trian",)
    with pytest.raises(UserError, match="Did you mean coco_2017_train"):
        register_datasets(cfg)
    cfg.DATASETS.TRAIN = "coco_2017_train"
    with pytest.raises(UserError, match="write a tuple"):
        register_datasets(cfg)
    with pytest.raises(UserError, match="not known"):
        load_dataset("nothing_like_this")


def test_shapes_follow_the_config(cfg: CfgNode) -> None:
    register_datasets(cfg)
    assert len(load_dataset("shapes_train")) == 10
    cfg.DATASETS.SHAPES.NUM_TRAIN = 4
    register_datasets(cfg)
    assert len(load_dataset("shapes_train")) == 4
    assert MetadataCatalog.get("shapes_train").evaluator_type == "coco"


def test_unused_shapes_are_not_rendered(registered: CfgNode, cache: Path) -> None:
    register_datasets(registered)
    assert not (cache / "shapes").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [{"id": 1, "file_na', "cut off at character 30"),
        ('{"images": [{"id": 1', "cut off"),
        ('{"images": [tr', "cut off"),
        ('{"images": [{"id": 1}, \n', "cut off"),
        ('{"images": [{"id": 1.', "cut off"),
        ('{"images": [{"file_name": "\\u00', "cut off"),
        ('{"images": [{"id": 1},]}', r"not valid JSON: .* at line 1, column 23, near"),
        ('{"images": [{"id": 1,}]}', r"not valid JSON: .* at line 1, column 22, near"),
        ("  ", "is empty"),
        ('{"images": [1 2, 3, 4, 5, 6, 7]}', r"not valid JSON: .* at line 1, column 15, near"),
        ("[1, 2]", "not a COCO-format file"),
        ('{"images": [], "annotations": [5]}', "'annotations' must be a list of objects"),
        ('{"images": null}', "must hold an object with a list 'images'"),
        ('{"images": {"1": {"id": 1}}}', "must hold an object with a list 'images'"),
        ('{"images": [], "categories": null}', "'categories' must be a list of objects"),
        ('{"images": [], "categories": {"1": "cell"}}', "'categories' must be a list of objects"),
        ('{"images": [], "categories": []}', "no 'categories'"),
    ],
)
def test_json_errors(text: str, message: str, registered: CfgNode) -> None:
    path = registered.DATASETS.REGISTER[0][1]
    Path(path).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        register_datasets(registered)
    assert path in str(caught.value)


def test_cut_json_of_a_stock_data_set_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text('{"images": [{"id": 1, "file_na')
    register_coco_instances("test_cut_stock", {}, str(path), str(tmp_path))
    try:
        with pytest.raises(UserError, match=f"{path} is cut off"):
            load_dataset("test_cut_stock")
        path.unlink()
        with pytest.raises(UserError, match=r"cut.json does not exist.*DETECTRON2_DATASETS"):
            load_dataset("test_cut_stock")
    finally:
        DatasetCatalog.remove("test_cut_stock")
        MetadataCatalog.remove("test_cut_stock")


def test_a_stock_data_set_reads_like_detectron2s(
    content: Content, write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same records, each made when it is asked for; where the classes are others, its own reader serves."""
    content["annotations"][0]["segmentation"].append([1, 1, 2, 2])
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    _, json_file, root = write(content)
    name = "test_stock_fast"
    classes = {"thing_classes": ["dog", "cat"], "thing_dataset_id_to_contiguous_id": {3: 0, 9: 1}}
    register_coco_instances(name, classes, json_file, root)
    monkeypatch.setattr(datasets, "_stock", frozenset({name}))
    try:
        records = load_dataset(name)
        assert isinstance(records, Records) and records == load_coco_json(json_file, root, name)
        MetadataCatalog.get(name).set(keypoint_names=["nose"])
        assert isinstance(load_dataset(name), list)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_class_counts_are_filled_everywhere(registered: CfgNode) -> None:
    keys = set(num_classes_sections(registered))
    assert {"MODEL.FCOS.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"} <= keys
    registered.MODEL.ROI_HEADS.NUM_CLASSES, tested = 30, registered.DATASETS.TEST
    with pytest.raises(
        UserError, match=r"ROI_HEADS.NUM_CLASSES is 30 on the command line, but data set 'own_\d+' has 2"
    ):
        fill_class_counts(registered, frozenset({"MODEL.ROI_HEADS.NUM_CLASSES"}))
    registered.DATASETS.TEST = ()  # more classes than the data has can be trained, but not evaluated
    fill_class_counts(registered, frozenset({"MODEL.ROI_HEADS.NUM_CLASSES"}))
    assert registered.MODEL.FCOS.NUM_CLASSES == registered.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2
    assert registered.MODEL.ROI_HEADS.NUM_CLASSES == 30
    registered.MODEL.FCOS.NUM_CLASSES, registered.DATASETS.TEST = 1, tested
    with pytest.raises(UserError, match=r"MODEL.FCOS.NUM_CLASSES is 1, but data set 'own_\d+' has 2"):
        fill_class_counts(registered, frozenset({"MODEL.FCOS.NUM_CLASSES"}))


def test_class_counts_from_test_sets_alone(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN = ()
    fill_class_counts(cfg, frozenset())
    assert cfg.MODEL.FCOS.NUM_CLASSES == 5
    cfg.DATASETS.TEST = ()
    cfg.MODEL.FCOS.NUM_CLASSES = 80
    fill_class_counts(cfg, frozenset())
    assert cfg.MODEL.FCOS.NUM_CLASSES == 80


def test_data_sets_that_disagree(registered: CfgNode, content: Content, write: Writer) -> None:
    content["categories"][0]["name"] = "cow"
    other = write(content)
    registered.DATASETS.REGISTER = [*registered.DATASETS.REGISTER, list(other)]
    registered.DATASETS.TEST = (other[0],)
    with pytest.raises(UserError, match="the latter lacks cat and adds cow"):
        fill_class_counts(registered, frozenset())
    registered.DATASETS.TRAIN = (*registered.DATASETS.TRAIN, other[0])
    with pytest.raises(UserError, match=r"2 classes: dog, cat.*2 classes: dog, cow"):
        fill_class_counts(registered, frozenset())
    registered.DATASETS.TRAIN = registered.DATASETS.TRAIN[:1]
    registered.DATASETS.TEST = ("shapes_val",)
    with pytest.raises(UserError, match=r"shapes_val.*different classes"):
        fill_class_counts(registered, frozenset())


def test_counts_of_stock_data_sets() -> None:
    assert class_counts("coco_2017_train") == (80, 80)
    assert class_counts("coco_2017_train_panoptic") == (80, 133)
    assert class_counts("coco_2017_train_panoptic_separated") == (80, 54)
    MetadataCatalog.get("test_disjoint").set(thing_classes=["a", "b"], stuff_classes=["c", "d", "e"])
    assert class_counts("test_disjoint") == (2, 5)


@pytest.mark.skipif(not COCO.exists(), reason="needs $ADET_IUQ_DATA/coco_tiny")
def test_real_coco_file_reads_like_detectron2(cfg: CfgNode) -> None:
    json_file, root = str(COCO / "annotations/instances_val2017.json"), str(COCO / "val2017")
    cfg.DATASETS.REGISTER, cfg.DATASETS.TEST = [["tiny_val", json_file, root]], ("tiny_val",)
    register_datasets(cfg)
    assert MetadataCatalog.get("tiny_val").json_file == json_file
    theirs = load_coco_json(json_file, root, "coco_test_twin")
    for annotation in (annotation for record in theirs for annotation in record["annotations"]):
        annotation["bbox"] = [float(value) for value in annotation["bbox"]]
    assert load_dataset("tiny_val") == theirs
