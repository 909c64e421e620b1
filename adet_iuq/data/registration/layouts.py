"""Data sets that are given as a folder: what the folder contains, and how it is understood."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from adet_iuq.data.annotations.file_names import Folders
from adet_iuq.data.annotations.yolo import coco_files
from adet_iuq.data.annotations.yolo_yaml import DataYaml, load, read_data_yaml
from adet_iuq.data.registration.coco_folders import SPLIT_WORDS, UNDIVIDED, coco_splits
from adet_iuq.errors import UserError

_YAML = (".yaml", ".yml")
_SHOWN = 15  # number of a folder's entries in a message
_LOOKED_FOR = (
    "train/_annotations.coco.json with valid/ and test/ beside it; COCO-format JSON files in the folder, in annotations/ "
    "or in folders named like a split, with images in images/, in folders named like the file (train2017/, images/train/) "
    "or in others beside it; data.yaml of YOLO segmentation, with images/ and labels/"
)


class Split(Protocol):
    """The place that a data set comes from."""

    def files(self) -> tuple[str, str]:
        """Its COCO-format JSON file, which may have to be made first, and the folder of its images; both are absolute.

        Raises:
            UserError: they do not exist.
        """


@dataclass(frozen=True)
class YoloSplit:
    """A split of a data.yaml."""

    data: DataYaml
    split: str

    def files(self) -> tuple[str, str]:
        """See `Split`. Labels are converted unless the cache has them."""
        return coco_files(self.data, self.split)


@dataclass(frozen=True)
class Layout:
    """The data sets that were found in a folder.

    Attributes:
        path: the path of the folder or of the data.yaml.
        kind: the kind of layout in words.
        splits: the splits by name: "train", "val", "test", or only UNDIVIDED.
    """

    path: str
    kind: str
    splits: Mapping[str, Split]

    def names(self, name: str) -> dict[str, Split]:
        """The data sets of a folder that is called `name`: `name_train` and so on."""
        return {set_name(name, split): found for split, found in self.splits.items()}


def set_name(name: str, split: str) -> str:
    """The name of a split of a folder that is called `name`."""
    return f"{name}_{split}" if split else name


def possible_names(name: str) -> list[str]:
    """The data sets that a folder called `name` could contain."""
    return [set_name(name, split) for split in (*SPLIT_WORDS, UNDIVIDED)]


def default_name(path: str) -> str:
    """The name of a folder that is given without one: its own, or that of the folder of a data.yaml."""
    path = os.path.abspath(path)
    folder = os.path.dirname(path) if path.lower().endswith(_YAML) else path
    return os.path.basename(folder)


def find_layout(path: str) -> Layout:
    """Finds the data sets in a folder or a data.yaml.

    Raises:
        UserError: it does not exist, nothing is found, or it can be understood in more than one way.
    """
    path = os.path.abspath(path)
    if os.path.isfile(path):
        if path.lower().endswith(_YAML):
            return _yolo(path, path)
        raise UserError(
            f"{path} is a file, not a folder or data.yaml. Give a JSON file with its image folder: "
            f"[name, '{path}', 'image folder']."
        )
    if not os.path.isdir(path):
        raise UserError(f"The folder {path} does not exist (working folder: {os.getcwd()}).")
    yaml_files = _yaml_files(path)
    coco = coco_splits(path)
    if len(yaml_files) > 1 or (yaml_files and coco):
        there = [*yaml_files, *(os.path.join(path, found.json_file) for found in coco.values())]
        raise UserError(
            f"The folder {path} can be read in several ways: {', '.join(there)}. Name the one that is meant: a data.yaml in "
            "the place of the folder, or a JSON file with its image folder, [name, json file, image folder]."
        )
    if yaml_files:
        return _yolo(path, yaml_files[0])
    if coco:
        return Layout(path, "COCO-format files", coco)
    raise UserError(
        f"The folder {path} holds no data set. Looked for were: {_LOOKED_FOR}. There is: {_contents(path)}."
    )


def _yolo(path: str, yaml_file: str) -> Layout:
    data = read_data_yaml(yaml_file)
    return Layout(path, f"YOLO segmentation ({yaml_file})", {split: YoloSplit(data, split) for split in data.places})


def _yaml_files(folder: str) -> list[str]:
    """The YAML files in a folder that are YOLO's."""
    names = sorted(name for name in Folders(folder).listing("").files if name.lower().endswith(_YAML))
    paths = [os.path.join(folder, name) for name in names]
    return [path for path in paths if load(path) is not None]


def _contents(folder: str) -> str:
    """A short list of what lies in a folder and in the folders below it."""
    folders = Folders(folder)
    entries = sorted(folders.listing("").files)
    for name in sorted(folders.listing("").folders):
        inside = sorted([*folders.listing(name).files, *(f"{one}/" for one in folders.listing(name).folders)])
        entries.append(f"{name}/ ({len(inside)} entries{f', {inside[0]} first' if inside else ''})")
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return (", ".join(entries[:_SHOWN]) or "nothing") + more
