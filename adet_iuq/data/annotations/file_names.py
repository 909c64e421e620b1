"""Finds the files on the disk that the image names of a JSON file mean.

Archives, web servers and other systems change names: their Unicode form (macOS splits off accents), their slashes,
their percent signs, or the case of their suffix. If exactly one file fits such a name, that file is meant. Only this
module decides it: training, evaluation and the check use the names in the content that it returns.
"""

import difflib
import functools
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from adet_iuq.data.annotations.image_entries import has_name, relative_path
from adet_iuq.data.annotations.report import SHOWN, Report
from adet_iuq.data.cache import folder_time

OTHER_SPELLING = "image name spelt differently"

_NEAR = 3  # number of candidates that are named for a missing file
_SUBFOLDERS = 100  # number of folders below the image folder that are searched for them


def _plain_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


# The order matters. Escapes that are no UTF-8 are left as they are.
_SPELLINGS: dict[str, Callable[[str], str]] = {
    "percent signs": lambda name: unquote(name, errors="surrogateescape"),
    "slashes": lambda name: name.replace("\\", "/"),
    "the Unicode form": lambda name: unicodedata.normalize("NFC", name),
    "the suffix's case": _plain_suffix,
}


def plain(name: str, without: str = "") -> str:
    """The common form of all spellings of a name; `without` leaves one of the kinds of spelling out."""
    if not without and name.isascii() and "%" not in name and "\\" not in name:  # most names
        return _plain_suffix(name)
    for kind, spell in _SPELLINGS.items():
        name = name if kind == without else spell(name)
    return name


def difference(first: str, second: str) -> str:
    """The difference of two spellings of one name, in words, because two Unicode forms look the same."""
    if plain(first) != plain(second):
        return "slashes"  # at the beginning or doubled
    return " and ".join(kind for kind in _SPELLINGS if plain(first, kind) != plain(second, kind))


class Listing:
    """The files and folders in a folder, by name. They are sorted by spelling only when asked for."""

    def __init__(self, path: str) -> None:
        self.files: set[str] = set()
        self.folders: set[str] = set()
        try:
            with os.scandir(path) as found:
                for item in found:
                    (self.files if item.is_file() else self.folders).add(item.name)
        except (OSError, ValueError):  # ValueError: the name has a null character
            pass

    @functools.cached_property
    def files_by_spelling(self) -> dict[str, list[str]]:
        """The names of files by their `plain` form."""
        return _grouped(self.files, plain)

    @functools.cached_property
    def files_by_stem(self) -> dict[str, list[str]]:
        """The names of files by their lower-case stem."""
        return _grouped(self.files, _stem)

    @functools.cached_property
    def folders_by_spelling(self) -> dict[str, list[str]]:
        """The names of folders by their `plain` form."""
        return _grouped(self.folders, plain)


class Folders:
    """The files below a root. Each folder is listed once, when it is asked about.

    Attributes:
        root: the path of the folder that names are relative to.
        times: the `folder_time` of every listed folder (absolute), taken before the listing.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.times: dict[str, int] = {}
        self._listings: dict[str, Listing] = {}

    def listing(self, folder: str) -> Listing:
        """The content of a folder, which is named relative to the root."""
        if folder not in self._listings:
            full = os.path.abspath(os.path.join(self.root, folder))
            self.times[full] = folder_time(full)
            self._listings[folder] = Listing(full)
        return self._listings[folder]

    def has(self, path: str) -> bool:
        """Whether there is a file of exactly this name."""
        folder, name = os.path.split(os.path.normpath(path))
        return name in self.listing(folder).files

    def fitting(self, path: str) -> list[str]:
        """The files, relative to the root, that the path is another spelling of; folders may be spelt differently too."""
        parts = [part for part in posixpath.normpath(plain(path)).split("/") if part]
        return sorted(set(self._below("", parts)))

    def _below(self, folder: str, parts: list[str]) -> Iterator[str]:
        listing = self.listing(folder)
        # First the whole rest as one name: unpacking may leave backslashes and escaped slashes in file names.
        for name in listing.files_by_spelling.get("/".join(parts), ()):
            yield os.path.join(folder, name)
        if len(parts) > 1:
            folders = [".."] if parts[0] == ".." else listing.folders_by_spelling.get(plain(parts[0]), ())
            for name in folders:
                yield from self._below(os.path.join(folder, name), parts[1:])

    def near(self, path: str) -> list[str]:
        """A few files that a missing name may mean: those with the same stem nearby, or with a similar name."""
        fitting = self.fitting(path)
        name, own = posixpath.basename(plain(path)), os.path.dirname(os.path.normpath(path))
        subfolders = sorted(self.listing("").folders)[:_SUBFOLDERS]
        for folder in dict.fromkeys([own, "", *subfolders]):
            fitting += [os.path.join(folder, one) for one in self.listing(folder).files_by_stem.get(_stem(name), ())]
        if not fitting:
            folder = own if self.listing(own).files else ""
            alike = difflib.get_close_matches(name, self.listing(folder).files, n=_NEAR, cutoff=0.8)
            fitting = [os.path.join(folder, one) for one in alike]
        return list(dict.fromkeys(fitting))[:_NEAR]


def with_names_on_disk(content: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """The parsed content of a COCO-format file, with `file_name` as on the disk if exactly one file fits a name.

    A file that another name of the list means is not used. The existing names cost one listing of each folder.

    Args:
        content: the content, whose list `images` holds objects. It is not changed.
        report: collects the findings and the times of the folders; its `image_root` is the folder of the images.

    Returns:
        The content itself if all names are right.
    """
    if "://" in report.image_root:
        return content
    folders = Folders(report.image_root)
    renamed = _renamed({relative_path(entry) for entry in content["images"] if has_name(entry)}, folders)
    report.folders.update(folders.times)
    if not renamed:
        return content
    images = []
    shown = 0
    for entry in content["images"]:
        path = relative_path(entry) if has_name(entry) else ""
        if path in renamed:
            example = _example(path, renamed[path], entry) if shown < SHOWN else ""
            shown += 1
            report.add(OTHER_SPELLING, example, "Exactly one file fits each of these names; it is taken, everywhere.")
            entry = {**entry, "file_name": renamed[path]}
        images.append(entry)
    return {**content, "images": images}


def _example(path: str, found: str, entry: dict[str, Any]) -> str:
    return f"{path} is {found} on the disk, which differs in {difference(path, found)} (image id {entry.get('id')})"


def _renamed(paths: set[str], folders: Folders) -> dict[str, str]:
    """The paths without a file, with the path that is meant."""
    missing = sorted(path for path in paths if not folders.has(path))
    if not missing:
        return {}
    fitting = {path: folders.fitting(path) for path in missing}
    single = {path: found[0] for path, found in fitting.items() if len(found) == 1}
    claims = Counter(single.values())
    claims.update(os.path.normpath(path) for path in paths.difference(missing))
    return {path: found for path, found in single.items() if claims[found] == 1}


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _stem(name: str) -> str:
    return os.path.splitext(plain(name))[0].casefold()
