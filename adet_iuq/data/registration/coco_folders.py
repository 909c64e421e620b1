"""Finds COCO-format files in a folder: the split of each, and the folder of its images."""

import json
import mmap
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from adet_iuq.data.annotations.file_names import Folders
from adet_iuq.data.annotations.image_entries import relative_path
from adet_iuq.errors import UserError

UNDIVIDED = ""  # the split of a file whose name does not contain one
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_INSTANCES = "instances_"
# COCO's files for other tasks.
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_MOST_FILES = 50  # a folder with more JSON files has one per image, which is another format
_MOST_FOLDERS = 50  # number of folders without a telling name in which images are searched
_SAMPLE = 20  # number of image names by which the image folder is found
_LIST = re.compile(rb'"images"\s*:\s*\[')
_NAME = re.compile(rb'"(file_name|coco_url)"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class CocoFile:
    """A COCO-format file in a folder.

    Attributes:
        folder: the data set's folder, absolute.
        json_file: the path of the file, relative to the folder.
        split: "train", "val", "test" or UNDIVIDED.
    """

    folder: str
    json_file: str
    split: str

    def files(self) -> tuple[str, str]:
        """The absolute paths of the file and of the folder that its image names are relative to.

        That folder is the one of `_image_folders` that holds most of the first images; the first one of several.

        Raises:
            UserError: no folder holds one of them.
        """
        path = os.path.join(self.folder, self.json_file)
        folders = self._image_folders()
        names = _image_names(path)
        if not names and folders:
            return path, folders[0]
        counts = [_held(folder, names) for folder in folders]
        if not any(counts):
            raise UserError(
                f"{path} names images such as '{names[0] if names else '?'}', which lie in none of the folders "
                f"{', '.join(folders) or 'beside it'}. Put the images there, or give the folder: [name, '{path}', "
                "'image folder'] in DATASETS.REGISTER."
            )
        return path, folders[counts.index(max(counts))]

    def _image_folders(self) -> list[str]:
        """The existing folders that may hold the images: first those that are named like the file or its split, and none of
        another split."""
        own = os.path.dirname(self.json_file)
        stem = os.path.splitext(os.path.basename(self.json_file))[0]
        words = [stem.removeprefix(_INSTANCES), stem, *SPLIT_WORDS.get(self.split, ())]
        places = [own, os.path.join(own, "images")] if self.split and split_of(own) == self.split else []
        for word in words:
            places += [word, os.path.join("images", word), os.path.join(word, "images"), os.path.join(own, word)]
        places += ["images", "JPEGImages", os.path.join(own, "images"), "", own]
        places += sorted(Folders(self.folder).listing("").folders)[:_MOST_FOLDERS]
        # Images of another split may have the same names.
        places = [place for place in places if not self.split or split_of(place) in (self.split, UNDIVIDED)]
        full = (os.path.normpath(os.path.join(self.folder, place)) for place in places)
        return [place for place in dict.fromkeys(full) if os.path.isdir(place)]


def split_of(path: str) -> str:
    """The split that a relative path names, with the folders considered first; UNDIVIDED if there is none."""
    for word in re.findall(r"[a-z]+", path.lower()):
        if word in _SPLIT_OF:
            return _SPLIT_OF[word]
    return UNDIVIDED


def coco_splits(folder: str) -> dict[str, CocoFile]:
    """The COCO-format files in a folder, by split.

    They lie in the folder, in `annotations`, or in a folder that is named like a split. If there are several for one
    split, the one named `instances_` is taken.

    Raises:
        UserError: several files could be meant.
    """
    by_split: dict[str, list[str]] = defaultdict(list)
    for path in json_files(folder):
        if not os.path.basename(path).startswith(_OTHER_TASKS) and _is_coco(os.path.join(folder, path)):
            by_split[split_of(path)].append(path)
    if len(by_split) > 1:
        by_split.pop(UNDIVIDED, None)
    return {split: CocoFile(folder, _single(folder, split, by_split[split]), split) for split in by_split}


def json_files(folder: str) -> list[str]:
    """The JSON files in the places where annotations are looked for, relative to the folder."""
    folders = Folders(folder)
    named = sorted(one for one in folders.listing("").folders if split_of(one))
    found: list[str] = []
    for place in ("", "annotations", *(f"annotations/{one}" for one in named), *named):
        files = sorted(name for name in folders.listing(place).files if name.lower().endswith(".json"))
        found += [os.path.join(place, name) for name in files] if len(files) <= _MOST_FILES else []
    return found


def _single(folder: str, split: str, paths: list[str]) -> str:
    instances = [path for path in paths if os.path.basename(path).startswith(_INSTANCES)]
    candidates = instances or paths
    if len(candidates) > 1:
        which = f"for '{split}'" if split else "without a split in their names"
        raise UserError(
            f"The folder {folder} holds several JSON files {which}: {', '.join(candidates)}. Name the one that "
            "is meant, with its image folder, in DATASETS.REGISTER: "
            f"[['name', '{os.path.join(folder, candidates[0])}', 'image folder']]."
        )
    return candidates[0]


def _is_coco(path: str) -> bool:
    """Whether a file has a list `images`. Its text is searched, because such files are large."""
    return any(True for _ in _found(path, _LIST))


def _image_names(path: str) -> list[str]:
    """The first few image names of a COCO-format file, found by searching its text."""
    pairs: list[tuple[str, str]] = []
    for groups in _found(path, _NAME):
        try:
            pairs.append((groups[0].decode(), json.loads(groups[1])))
        except ValueError:  # the check will report what is wrong with the file
            continue
        if len(pairs) == _SAMPLE:
            break
    wanted = "file_name" if any(key == "file_name" for key, _ in pairs) else "coco_url"
    return [relative_path({key: value}) for key, value in pairs if key == wanted]


def _found(path: str, pattern: re.Pattern[bytes]) -> Iterator[tuple[bytes, ...]]:
    """The groups of all matches in a file, from its beginning on; no more of the file is read than is asked for."""
    with open(path, "rb") as file:
        encoding = json.detect_encoding(file.read(4))
        if encoding.startswith("utf-8"):
            if os.path.getsize(path):
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                    yield from (match.groups() for match in pattern.finditer(text))
            return
        file.seek(0)
        decoded = file.read().decode(encoding, "replace").encode()
    yield from (match.groups() for match in pattern.finditer(decoded))


def _held(folder: str, names: list[str]) -> int:
    """How many of the images lie in a folder, under their names or other spellings of these."""
    folders = Folders(folder)
    return sum(os.path.isfile(os.path.join(folder, name)) or len(folders.fitting(name)) == 1 for name in names)
