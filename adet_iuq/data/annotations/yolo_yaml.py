"""Reads YOLO's `data.yaml`: the names of the classes, and the places of the images and their label files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adet_iuq.data.annotations.file_names import Folders, plain
from adet_iuq.data.annotations.numbers import whole_positive
from adet_iuq.data.images.opening import IMAGE_SUFFIXES
from adet_iuq.errors import UserError
from adet_iuq.yaml_values import load_yaml

SPLITS = ("train", "val", "test")
_IMAGES, _LABELS = "images", "labels"
_NO_LABELS = ("classes.txt",)  # annotation tools write the names of the classes into this file


@dataclass(frozen=True)
class DataYaml:
    """The content of such a file.

    Attributes:
        path: the absolute path of the file.
        names: the names of the classes, by their number in labels.
        places: by split, folders, text files with images, and images, as they are written in the file.
        base: the entry `path`, which places are relative to; it may be empty.
    """

    path: str
    names: dict[int, str]
    places: dict[str, list[str]]
    base: str

    def images(self, split: str) -> list[str]:
        """The absolute paths of the images of a split, sorted, each of them once.

        Raises:
            UserError: a place does not exist or is a file of another kind, or no place holds an image.
        """
        found: set[str] = set()
        for place in self.places[split]:
            full = self._resolved(place, split)
            if not os.path.isfile(full):
                found.update(_images_below(full))
            elif full.lower().endswith(IMAGE_SUFFIXES):
                found.add(full)
            else:
                found.update(_listed_images(full))
        if not found:
            raise UserError(
                f"{self.path}: '{split}: {', '.join(self.places[split])}' holds no images ({', '.join(IMAGE_SUFFIXES)})."
            )
        return sorted(found)

    def _resolved(self, place: str, split: str) -> str:
        """A place of the file as a path: below `path`, or below the file's own folder.

        Labelling services write `../train/images` into a file that lies beside `train`.

        Raises:
            UserError: there is no such file or folder.
        """
        own = os.path.dirname(self.path)
        inside = place.replace("\\", "/")
        while inside.startswith("../"):
            inside = inside[3:]
        bases = [os.path.join(own, self.base), own] if self.base else [own]
        tried = [os.path.normpath(os.path.join(base, one)) for one in (place, inside) for base in bases]
        for path in tried:
            if os.path.exists(path):
                return path
        raise UserError(
            f"{self.path}: '{split}: {place}' names no file or folder. Looked for were {', '.join(dict.fromkeys(tried))}. "
            "Correct it, or 'path', which it starts at."
        )


def read_data_yaml(path: str) -> DataYaml:
    """Reads the file; nothing in it is executed.

    Raises:
        UserError: the file is not YAML, or it lacks `names` or every split.
    """
    content = load(path)
    if content is None:
        raise UserError(f"{path} is no data.yaml of YOLO: it must have the entries 'names' and 'train' or 'val'.")
    splits = {split: content.get(split) for split in SPLITS}
    places = {split: [str(one) for one in _as_list(value) if one] for split, value in splits.items() if value}
    base = os.path.expanduser(os.path.expandvars(str(content.get("path") or "")))
    return DataYaml(os.path.abspath(path), _class_names(path, content["names"]), places, base)


def load(path: str) -> dict[str, Any] | None:
    """The entries of a YAML file; None if it is not one of YOLO's.

    Raises:
        UserError: the file cannot be read as YAML.
    """
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or "names" not in content or not any(content.get(split) for split in SPLITS):
        return None
    return content


def _class_names(path: str, given: Any) -> dict[int, str]:
    """The names by number, from a list or from a mapping of numbers to names."""
    entries = list(given.items()) if isinstance(given, dict) else list(enumerate(_as_list(given)))
    numbers = [0 if str(key) == "0" else whole_positive(key) for key, _ in entries]
    if any(isinstance(name, bool) for _, name in entries):
        raise UserError(
            f"{path}: YAML takes names such as yes, no, on and off for true and false; put quotes around them ('yes')."
        )
    named = all(isinstance(name, str | int | float) and str(name).strip() for _, name in entries)
    if not entries or None in numbers or not named:
        raise UserError(
            f"{path}: 'names' must be a list of class names, or name each class by its number ('0: cell'); no name "
            "may be empty."
        )
    return {key: str(name) for key, (_, name) in zip(numbers, entries, strict=True) if key is not None}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _images_below(folder: str) -> list[str]:
    """All images in a folder and in the folders below it."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        found += [os.path.join(place, name) for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
    return found


def _listed_images(path: str) -> list[str]:
    """The images that a text file lists, one per line; relative paths start at its folder."""
    folder = os.path.dirname(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise UserError(f"{path} must be a text file in UTF-8 that lists images, one per line: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if any("\0" in line for line in lines):
        raise UserError(f"{path} must be a text file that lists images, one per line; it has null characters.")
    return [os.path.normpath(os.path.join(folder, line.strip())) for line in lines if line.strip()]


def label_files(images: list[str]) -> tuple[dict[str, str], list[str]]:
    """The label files of images, by image, and the label files in their folders that belong to no image.

    A label file has the image's name with the suffix .txt. Its folder is that of the image with the last `images` in
    the path replaced by `labels`, or else that of the image itself. An image without a label file has no objects.
    """
    folders = Folders("")
    found: dict[str, str] = {}
    for image in images:
        folder, name = os.path.split(image)
        name = os.path.splitext(name)[0] + ".txt"
        for place in (_mirror(folder), folder):
            path = os.path.join(place, name)
            fitting = [name] if folders.has(path) else folders.listing(place).files_by_spelling.get(plain(name), [])
            if len(fitting) == 1:
                found[image] = os.path.join(place, fitting[0])
                break
    used = set(found.values())
    mirrors = sorted({_mirror(os.path.dirname(image)) for image in found})
    labels = [os.path.join(place, name) for place in mirrors for name in sorted(folders.listing(place).files)]
    orphans = [path for path in labels if path.endswith(".txt") and os.path.basename(path) not in _NO_LABELS]
    return found, [path for path in orphans if path not in used]


def _mirror(folder: str) -> str:
    parts = folder.split(os.sep)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == _IMAGES:
            return os.sep.join([*parts[:index], _LABELS, *parts[index + 1 :]])
    return folder
