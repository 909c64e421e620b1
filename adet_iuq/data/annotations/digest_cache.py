"""Keeps digests in the cache folder: the first process on a machine judges a JSON file, and the others read its result."""

import io
import logging
import os
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adet_iuq.data.annotations.digest import Digest, Identity, make_digest
from adet_iuq.data.annotations.parsing import clear_errors
from adet_iuq.data.annotations.sanitize import VERSION
from adet_iuq.data.cache import cache_folder, file_identity, make_folder_once
from adet_iuq.data.seeding import derive_seed
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

_FORMAT = 1  # to be raised with every change to the files written here
_FACTS, _TEXTS = "facts.pickle", "annotations.json"
_LARGE = 32 << 20  # bytes; reading a larger JSON file takes a while
_MOST_KEPT = 8  # number of digests that a process keeps
_kept: dict[tuple[Any, ...], "Kept"] = {}


class Texts:
    """The annotations of all images, one text after the other. If they lie in a file, pickling stores only its name.

    Attributes:
        view: the bytes of the annotations.
        place: the folder of the file that holds them; None: they are in this process's memory.
    """

    def __init__(self, data: bytes, place: Path | None) -> None:
        """`data` counts if there is no `place`; otherwise nothing is read yet."""
        self._data, self.place = data, place
        self.view = memoryview(data)
        self._identity: Identity = None
        if place is not None:
            self._identity = file_identity(str(place / _TEXTS))
            if self._identity[2]:  # an empty file cannot be mapped
                self.view = np.memmap(place / _TEXTS, np.uint8, "r").data

    def __reduce__(self) -> Any:
        return _same_texts, (self._data, self.place, self._identity)


def _same_texts(data: bytes, place: Path | None, identity: Identity) -> Texts:
    """Opens in another process what was pickled.

    Raises:
        UserError: the file has been replaced since.
    """
    texts = Texts(data, place)
    if texts._identity != identity:
        raise UserError(
            f"{place} was made anew while this run read it: its JSON file has changed. Start the run again."
        )
    return texts


@dataclass(frozen=True)
class Kept:
    """A digest and the annotations that belong to it."""

    digest: Digest
    texts: Texts


def digest_of(json_file: str, image_root: str, *, stock: bool = False) -> Kept:
    """The digest of a file: from memory, from the cache folder, or made from the file itself.

    If the folder cannot be written, a warning says so, and every process that asks reads the file.

    Args:
        json_file: the path of the file, as for `sanitize`.
        image_root: the folder of its images, as for `sanitize`.
        stock: whether it is one of detectron2's own data sets, as for `sanitize`.

    Raises:
        UserError: `read_coco_json` refuses the file.
    """
    with clear_errors(json_file):
        path, time, size = file_identity(json_file)
    key = (path, size, time, os.path.abspath(image_root), json_file, image_root, stock)
    kept = _kept.pop(key, None)
    if kept is None or not kept.digest.is_fresh:
        kept = _open(json_file, image_root, stock, key)
    _kept[key] = kept  # moves it behind all others
    while len(_kept) > _MOST_KEPT:
        del _kept[next(iter(_kept))]
    return kept


def _open(json_file: str, image_root: str, stock: bool, key: tuple[Any, ...]) -> Kept:
    folder = _folder(json_file, image_root, stock)
    found: list[Digest] = []
    refused: list[UserError] = []

    def is_whole(folder: Path) -> bool:
        digest = _read(folder, key)
        found[:] = [] if digest is None else [digest]
        return digest is not None

    def fill(partial: Path) -> None:
        """Reads the JSON file and writes its digest into a folder, which is kept only if all of it was written."""
        if key[1] > _LARGE:
            logger.info("Reading %s; later starts find what it holds in %s.", json_file, folder)
        try:
            with open(partial / _TEXTS, "wb") as file:
                found[:] = [make_digest(json_file, image_root, stock, file.write)]
        except UserError as error:
            refused.append(error)
            raise
        _write_facts(partial, found[0], key)

    try:
        make_folder_once(folder, fill, is_whole=is_whole)
        return Kept(found[0], Texts(b"", folder))
    except UserError as error:
        if refused:
            raise
        logger.warning("What %s holds cannot be kept; each process reads it by itself. %s", json_file, error)
    texts = io.BytesIO()
    digest = make_digest(json_file, image_root, stock, texts.write)
    return Kept(digest, Texts(texts.getvalue(), None))


def _folder(json_file: str, image_root: str, stock: bool) -> Path:
    """The folder for a file at a place; when the file changes, its new digest replaces the old one."""
    places = (os.path.abspath(json_file), os.path.abspath(image_root), json_file, image_root)
    mark = derive_seed(VERSION, _FORMAT, stock, *"\n".join(places).encode())
    return cache_folder() / "annotations" / f"{Path(json_file).stem[:40]}-{mark:016x}"


def _write_facts(folder: Path, digest: Digest, key: tuple[Any, ...]) -> None:
    facts = pickle.dumps((key, digest), protocol=pickle.HIGHEST_PROTOCOL)
    (folder / _FACTS).write_bytes(zlib.crc32(facts).to_bytes(4, "little") + facts)


def _read(folder: Path, key: tuple[Any, ...]) -> Digest | None:
    """The digest in a folder, if it is whole and belongs to a file with this key."""
    try:
        content = (folder / _FACTS).read_bytes()
        if int.from_bytes(content[:4], "little") != zlib.crc32(memoryview(content)[4:]):
            return None
        found, digest = pickle.loads(memoryview(content)[4:])
        whole = found == key and digest.size == (folder / _TEXTS).stat().st_size and digest.is_fresh
        return digest if whole else None
    except Exception:  # a damaged file may raise anything; the digest is then made again
        return None
