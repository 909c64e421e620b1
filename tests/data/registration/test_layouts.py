"""Folders as data sets: what is found in them, and that it loads, trains and evaluates to the truth."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from adet_iuq.data import TrainingMapper, fill_class_counts, load_dataset, register_datasets
from adet_iuq.data.registration.announcement import describe_folders
from adet_iuq.errors import UserError
from helpers.folders import APPLE, NAMES, PEAR, coco, save_image, write_coco, write_yolo
from helpers.perfect import perfect_results

Make = Callable[[Path], None]


def service_export(folder: Path) -> None:
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        names = [f"{split}{number}_jpg.rf.0a.jpg" for number in range(count)]
        write_coco(folder / split / "_annotations.coco.json", folder / split, names)
    (folder / "README.roboflow.txt").touch()


def coco_2017(folder: Path) -> None:
    for split in ("train2017", "val2017"):
        write_coco(folder / f"annotations/instances_{split}.json", folder / split, ["1.jpg", "2.jpg"])
        for task in ("captions", "person_keypoints"):
            (folder / f"annotations/{task}_{split}.json").write_text('{"images": []}')


def split_folders(folder: Path) -> None:
    """The same names in all image folders: only the folders' names tell which is which."""
    for split in ("train", "val", "test"):
        write_coco(folder / f"annotations/{split}.json", folder / "images" / split, ["1.png", "2.png"])


def flat_images(folder: Path) -> None:
    write_coco(folder / "annotations/instances_train.json", folder / "images", ["1.png", "2.png"])
    write_coco(folder / "annotations/instances_val.json", folder / "images", ["3.png"])


def names_with_folders(folder: Path) -> None:
    """File names start at the folder itself, as in exports with `result.json`."""
    write_coco(folder / "train.json", folder, ["images/1.png", "images/2.png"])
    write_coco(folder / "validation.json", folder, ["images/3.png"])


def split_folders_with_images(folder: Path) -> None:
    for split in ("training", "val"):
        write_coco(folder / split / "coco.json", folder / split / "images", ["1.png"])


def other_folder(folder: Path) -> None:
    """Images in a folder with any name, JSON files in UTF-16, annotations before images, names spelt differently."""
    for split, name in (("train", "Ba\u0308r.png"), ("val", "1.PNG")):
        write_coco(folder / f"cells-{split}.json", folder / "pictures", [name])
        content = dict(reversed(coco(["B\u00e4r.png" if split == "train" else "1.png"]).items()))
        (folder / f"cells-{split}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-16")


def yolo(folder: Path) -> None:
    """As labelling services export it, with their path that starts a folder too high."""
    for split in ("train", "valid", "test"):
        texts = {"1.jpg": f"{APPLE}\n{PEAR}\n", "2.jpg": PEAR, "3.jpg": None}
        write_yolo(folder / split / "images", folder / split / "labels", texts)
    (folder / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['apple', 'pear']\n"
    )


LAYOUTS = [
    (service_export, {"train": 3, "val": 2, "test": 1}),
    (coco_2017, {"train": 2, "val": 2}),
    (split_folders, {"train": 2, "val": 2, "test": 2}),
    (flat_images, {"train": 2, "val": 1}),
    (names_with_folders, {"train": 2, "val": 1}),
    (split_folders_with_images, {"train": 1, "val": 1}),
    (other_folder, {"train": 1, "val": 1}),
    (yolo, {"train": 3, "val": 3, "test": 3}),
]


@pytest.mark.parametrize(("make", "counts"), LAYOUTS)
def test_what_is_found_trains_and_evaluates_to_the_truth(
    make: Make, counts: dict[str, int], cfg: CfgNode, tmp_path: Path
) -> None:
    name = f"{make.__name__}_{tmp_path.name}"
    folder = tmp_path / "fruit"
    make(folder)
    cfg.DATASETS.REGISTER = [[name, str(folder)]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"{name}_train",), tuple(f"{name}_{split}" for split in counts)
    fill_class_counts(cfg)
    assert MetadataCatalog.get(f"{name}_train").thing_classes == list(NAMES) and cfg.MODEL.FCOS.NUM_CLASSES == 2
    mapper = TrainingMapper(cfg)
    for split, count in counts.items():
        records = load_dataset(f"{name}_{split}")
        assert len(records) == count
        places = {Path(record["file_name"]).relative_to(folder).parts[:-1] for record in records}
        assert len(places) == 1
        if make in (service_export, coco_2017, split_folders, yolo):  # the split's own images, not another's
            assert any(split in part for part in next(iter(places)))
        for record in records:
            assert len(mapper({**record, "sample_seed": 1})["instances"]) == len(record["annotations"])
        assert perfect_results(cfg, f"{name}_{split}", tmp_path / split)["segm"]["AP"] == pytest.approx(100)
    (text,) = describe_folders(cfg)
    for split, count in counts.items():
        assert f"{name}_{split}: {MetadataCatalog.get(f'{name}_{split}').json_file}" in text
        assert f"({count:,} images, " in text


def test_a_folder_alone_is_called_by_its_own_name(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"fruit_{tmp_path.name}"
    flat_images(tmp_path / "above" / name)
    monkeypatch.setenv("FRUIT_FOLDER", str(tmp_path / "above"))
    for number, entry in enumerate([f"$FRUIT_FOLDER/{name}/", [f"$FRUIT_FOLDER/{name}"]]):
        cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [entry], (f"{name}_train",), ()
        register_datasets(cfg)
        assert len(load_dataset(f"{name}_train")) == 2, number
    assert f"{name}_val: not used" in describe_folders(cfg)[0]


def test_one_file_without_a_split(cfg: CfgNode, tmp_path: Path) -> None:
    write_coco(tmp_path / "set/annotations/instances_default.json", tmp_path / "set/images", ["1.png", "2.png"])
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN = [[tmp_path.name, str(tmp_path / "set")]], (tmp_path.name,)
    register_datasets(cfg)
    assert len(load_dataset(tmp_path.name)) == 2
    cfg.DATASETS.TRAIN = (f"{tmp_path.name}_train",)
    with pytest.raises(
        UserError, match=f"'{tmp_path.name}_train' is not known.*The folder .*/set gives {tmp_path.name}"
    ):
        register_datasets(cfg)


def test_an_unused_folder_is_not_looked_at(cfg: CfgNode) -> None:
    cfg.DATASETS.REGISTER = [["not_used", "/no/such/folder"], "$UNSET_VARIABLE/folder"]
    register_datasets(cfg)
    assert describe_folders(cfg) == []


def nothing(folder: Path) -> None:
    save_image(folder / "photos/1.png")
    (folder / "notes.json").write_text('{"a": 1}')


def one_file_an_image(folder: Path) -> None:
    for number in range(60):
        path = folder / f"train/{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"images": []}')


def two_for_a_split(folder: Path) -> None:
    write_coco(folder / "annotations/train.json", folder / "images", ["1.png"])
    write_coco(folder / "annotations/train_v2.json", folder / "images", ["1.png"])


def folds(folder: Path) -> None:
    for number in range(2):
        write_coco(folder / f"fold{number}.json", folder / "images", ["1.png"])


def images_elsewhere(folder: Path) -> None:
    write_coco(folder / "annotations/train.json", folder.parent / "elsewhere", ["1.png"])
    save_image(folder / "images/other.png")


def only_the_other_split_has_them(folder: Path) -> None:
    service_export(folder)
    (folder / "train").rename(folder / "gone")
    (folder / "train").mkdir()
    (folder / "gone/_annotations.coco.json").rename(folder / "train/_annotations.coco.json")
    for path in (folder / "gone").iterdir():
        path.rename(folder / "valid" / path.name)


def coco_and_yolo(folder: Path) -> None:
    flat_images(folder)
    yolo(folder)


def two_yaml(folder: Path) -> None:
    yolo(folder)
    (folder / "other.yaml").write_text((folder / "data.yaml").read_text())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, r"The folder .*/set does not exist"),
        (
            nothing,
            r"holds no data set. Looked for were: train/_annotations.coco.json.*There is: notes.json, photos/ \(1",
        ),
        (one_file_an_image, r"holds no data set.*train/ \(60 entries, 0.json first\)"),
        (
            two_for_a_split,
            r"several JSON files for 'train': annotations/train.json, annotations/train_v2.json. Name the one",
        ),
        (folds, r"several JSON files without a split in their names: fold0.json, fold1.json"),
        (images_elsewhere, r"train.json names images such as '1.png', which lie in none of the folders .*/set/images"),
        (only_the_other_split_has_them, r"lie in none of the folders .*/set/train, .*/set, .*/set/gone\. Put"),
        (coco_and_yolo, r"can be read in several ways: .*/data.yaml, .*/annotations/instances_train.json"),
        (two_yaml, r"can be read in several ways: .*/data.yaml, .*/other.yaml"),
    ],
)
def test_wrong_folders(make: Make, message: str, cfg: CfgNode, tmp_path: Path) -> None:
    make(tmp_path / "set")
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN = [["set", str(tmp_path / "set")]], ("set_train",)
    with pytest.raises(UserError, match=message):
        register_datasets(cfg)


def test_a_data_yaml_may_be_named_itself(cfg: CfgNode, tmp_path: Path) -> None:
    coco_and_yolo(tmp_path / "set")
    cfg.DATASETS.REGISTER = [[tmp_path.name, str(tmp_path / "set/data.yaml")]]
    cfg.DATASETS.TRAIN = (f"{tmp_path.name}_train",)
    register_datasets(cfg)
    assert len(load_dataset(f"{tmp_path.name}_train")) == 3
    for wrong, message in (("set/train/labels", "no data set"), ("set/train/images/1.jpg", "is a file, not a folder")):
        cfg.DATASETS.REGISTER = [[tmp_path.name, str(tmp_path / wrong)]]
        with pytest.raises(UserError, match=message):
            register_datasets(cfg)


def test_changed_labels_are_converted_again(cfg: CfgNode, tmp_path: Path) -> None:
    yolo(tmp_path / "set")
    name = f"{tmp_path.name}_train"
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN = [[tmp_path.name, str(tmp_path / "set")]], (name,)
    register_datasets(cfg)
    assert [len(record["annotations"]) for record in load_dataset(name)] == [2, 1, 0]
    (tmp_path / "set/train/labels/3.txt").write_text(APPLE)
    register_datasets(cfg)
    assert [len(record["annotations"]) for record in load_dataset(name)] == [2, 1, 1]
