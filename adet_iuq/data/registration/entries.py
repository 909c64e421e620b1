"""DATASETS.REGISTER: the data sets of a user, as JSON files with their image folders or as whole folders."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from adet_iuq.data.registration.layouts import Layout, default_name, find_layout, possible_names
from adet_iuq.errors import UserError


@dataclass(frozen=True)
class OwnSet:
    """One data set of a user.

    Attributes:
        name: the name in DATASETS.TRAIN and DATASETS.TEST.
        json_file: the absolute path of the JSON file.
        image_root: the absolute path of the image folder.
        folder: the folder in which both were found; None if the user named them.
    """

    name: str
    json_file: str
    image_root: str
    folder: str | None = None


def own_sets(cfg: CfgNode, used: Sequence[str]) -> Iterator[OwnSet]:
    """All triples of DATASETS.REGISTER, and the used data sets of its folders. YOLO's labels are converted.

    Raises:
        UserError: an entry is neither a triple nor a folder; a path that is used names an environment variable that is
            not set; or the content of a used folder is unclear.
    """
    for name, *paths in _entries(cfg)[0]:
        yield OwnSet(name, *(_absolute(path, name, name in used) for path in paths))
    for layout, name in used_folders(cfg, used):
        for one, found in layout.names(name).items():
            if one in used:
                yield OwnSet(one, *found.files(), folder=layout.path)


def own_names(cfg: CfgNode) -> set[str]:
    """The names that the entries of DATASETS.REGISTER have, or could have."""
    triples, folders = _entries(cfg)
    return {name for name, *_ in triples}.union(*(possible_names(name) for name, _ in folders))


def used_folders(cfg: CfgNode, used: Sequence[str]) -> Iterator[tuple[Layout, str]]:
    """The layouts and the names of those folders of DATASETS.REGISTER of which data sets are used.

    Raises:
        UserError: the content of a folder is unclear.
    """
    for name, path in _entries(cfg)[1]:
        if any(one in used for one in possible_names(name)):
            yield find_layout(_absolute(path, name, True)), name


def folder_hint(cfg: CfgNode, unknown: str) -> str:
    """A hint at the data sets of the folder that an unknown name seems to mean; empty if there is none."""
    for name, path in _entries(cfg)[1]:
        if unknown.startswith(name):
            layout = find_layout(_absolute(path, name, True))
            return f" The folder {layout.path} gives {', '.join(layout.names(name))}."
    return ""


def _entries(cfg: CfgNode) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """The triples of name, JSON file and image folder; and the pairs of name and folder."""
    triples: list[tuple[str, str, str]] = []
    folders: list[tuple[str, str]] = []
    for entry in cfg.DATASETS.REGISTER:
        parts = [entry] if isinstance(entry, str) else entry
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            parts = ()
        if len(parts) == 3:
            triples.append((parts[0], parts[1], parts[2]))
        elif len(parts) == 2 and not parts[1].lower().endswith(".json"):  # otherwise an image folder was forgotten
            folders.append((parts[0], parts[1]))
        elif len(parts) == 1:
            folders.append((default_name(_expanded(parts[0])), parts[0]))
        else:
            raise UserError(
                f"DATASETS.REGISTER: {entry!r} is not a triple [name, json file, image folder] and no [name, folder]. "
                "Write for example [['cells_train', 'cells/train.json', 'cells/images']], or [['cells', 'data/cells']] for "
                "a folder in which cells_train, cells_val and cells_test are found."
            )
    return triples, folders


def _absolute(path: str, name: str, used: bool) -> str:
    """A path of DATASETS.REGISTER with `~`, `$VARIABLE` and `${VARIABLE}` expanded, absolute.

    Paths are expanded only here. The config, and the copy of it that a run writes, contain the variable and so work on
    another machine. The path of an unused data set may keep a variable that is not set.

    Raises:
        UserError: the data set is used, and its path contains a variable that is not set.
    """
    expanded = _expanded(path)
    unset = re.search(r"\$\{?(\w+)\}?/*(.*)", expanded)
    if unset and used and not os.path.exists(expanded):
        raise UserError(
            f"Data set '{name}': its path {path} (DATASETS.REGISTER) takes the environment variable {unset[1]}, which is "
            f"not set; set {unset[1]} to the folder that holds {unset[2]}, see datasets/README.md."
        )
    return os.path.abspath(expanded)


def _expanded(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))
