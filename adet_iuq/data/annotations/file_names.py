"""Which files on the disk the image names of a JSON file mean.

On their way through archives, web servers and other systems names change their Unicode form (macOS takes accents apart),
their slashes, their percent signs, or the case of their suffix. Where exactly one file fits such a name, it is meant. This
is the one place that decides it: training, evaluation and the check take the names from the content that it returns.
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

_NEAR = 3  # candidates named for a missing file
_SUBFOLDERS = 100  # of the image folder, in which they are looked for


def _plain_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


# In this order; escapes that are no UTF-8 stay apart from each other.
_SPELLINGS: dict[str, Callable[[str], str]] = {
    "percent signs": lambda name: unquote(name, errors="surrogateescape"),
    "slashes": lambda name: name.replace("\\", "/"),
    "the Unicode form": lambda name: unicodedata.normalize("NFC", name),
    "the suffix's case": _plain_suffix,
}


def plain(name: str, without: str = "") -> str:
    """What all spellings of a name have in common; `without` one of the kinds of spelling."""
    if not without and name.isascii() and "%" not in name and "\\" not in name:  # nearly all are
        return _plain_suffix(name)
    for kind, spell in _SPELLINGS.items():
        name = name if kind == without else spell(name)
    return name


def difference(first: str, second: str) -> str:
    """By what two spellings of one name differ, in words: two Unicode forms look the same."""
    if plain(first) != plain(second):
        return "slashes"  # at the beginning, or doubled
    return " and ".join(kind for kind in _SPELLINGS if plain(first, kind) != plain(second, kind))


class Listing:
    """The files and the folders in a folder, by name; those whose names are spelt differently are sorted when asked for."""

    def __init__(self, path: str) -> None:
        self.files: set[str] = set()
        self.folders: set[str] = set()
        try:
            with os.scandir(path) as found:
                for item in found:
                    (self.files if item.is_file() else self.folders).add(item.name)
        except (OSError, ValueError):  # ValueError: a name with a null character
            pass

    @functools.cached_property
    def files_by_spelling(self) -> dict[str, list[str]]:
        """File names by their `plain` ones."""
        return _grouped(self.files, plain)

    @functools.cached_property
    def files_by_stem(self) -> dict[str, list[str]]:
        """File names by what is before the suffix, in small letters."""
        return _grouped(self.files, _stem)

    @functools.cached_property
    def folders_by_spelling(self) -> dict[str, list[str]]:
        """Folder names by their `plain` ones."""
        return _grouped(self.folders, plain)


class Folders:
    """The files below a root. Each folder that is asked about is listed once.

    Attributes:
        root: path of the folder that names are relative to.
        times: `folder_time` of every folder looked into (absolute), before that.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.times: dict[str, int] = {}
        self._listings: dict[str, Listing] = {}

    def listing(self, folder: str) -> Listing:
        """What lies in a folder, which is named relative to the root."""
        if folder not in self._listings:
            full = os.path.abspath(os.path.join(self.root, folder))
            self.times[full] = folder_time(full)
            self._listings[folder] = Listing(full)
        return self._listings[folder]

    def has(self, path: str) -> bool:
        """Whether there is such a file, under this very name."""
        folder, name = os.path.split(os.path.normpath(path))
        return name in self.listing(folder).files

    def fitting(self, path: str) -> list[str]:
        """The files, relative to the root, of which the path is another spelling; folders may be spelt differently too."""
        parts = [part for part in posixpath.normpath(plain(path)).split("/") if part]
        return sorted(set(self._below("", parts)))

    def _below(self, folder: str, parts: list[str]) -> Iterator[str]:
        listing = self.listing(folder)
        # All that is left at once: unpacking may leave backslashes and escaped slashes in the names of files.
        for name in listing.files_by_spelling.get("/".join(parts), ()):
            yield os.path.join(folder, name)
        if len(parts) > 1:
            folders = [".."] if parts[0] == ".." else listing.folders_by_spelling.get(plain(parts[0]), ())
            for name in folders:
                yield from self._below(os.path.join(folder, name), parts[1:])

    def near(self, path: str) -> list[str]:
        """A few files that may be meant by a name that is missing: the same stem close by, or a name much like it."""
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
    """The parsed content of a COCO-format file with `file_name` as on the disk, where exactly one file fits a name.

    A file that another name of the list means is not taken. Names under which a file lies cost a listing of each folder.

    Args:
        content: its list `images` holds objects. It is not changed.
        report: gets the findings and the times of the folders; its `image_root` is where the images lie.

    Returns:
        The content itself where all names are right.
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
    """The paths under which no file lies, with the one that is meant."""
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
