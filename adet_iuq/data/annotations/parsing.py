"""Parses a JSON file in whatever encoding it has, with errors for people."""

import contextlib
import functools
import gc
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import orjson

from adet_iuq.data.annotations.lazy_json import Entries, outline
from adet_iuq.data.cache import file_identity
from adet_iuq.errors import UserError

# Parsed files up to this size are kept, because several readers of panoptic maps ask for the same file.
KEEP_BYTES = 16 << 20
_SECTIONS = ("images", "annotations", "categories")
# The text from the place of the error on if a file was cut: nothing, or the beginning of a word, number or escape.
_CUT = re.compile(r"(t|tr|tru|f|fa|fal|fals|n|nu|nul|-|\.|[eE][+-]?|\\?u[0-9a-fA-F]{0,3}|[0-9a-fA-F]{0,3})?\s*")


def read_coco_json(path: str) -> dict[str, Any]:
    """The parsed file, of which only the outline is checked. Other callers may share it, so do not change it.

    Raises:
        UserError: the file is missing, cut off, not JSON, in an encoding that cannot be told, or not an object with a list
            `images`.
    """
    with clear_errors(path):
        identity = file_identity(path)
        return _kept(*identity) if identity[2] <= KEEP_BYTES else _parse(path)


def outline_coco_json(path: str) -> dict[str, Any]:
    """The same as `read_coco_json`, but `annotations` may be `Entries`, whose errors appear only at an access.

    Raises:
        UserError: `read_coco_json` would refuse the file.
    """
    with clear_errors(path), no_garbage_collection():
        with open(path, "rb") as file:
            content = outline(file.read(), _SECTIONS)
        if content is None or "images" not in content:
            return read_coco_json(path)
        for section in ("images", "categories"):
            entries = content.get(section)
            if isinstance(entries, Entries):  # `_checked` judges anything else
                content[section] = entries[:]
        return _checked(path, content)


@contextlib.contextmanager
def clear_errors(path: str) -> Iterator[None]:
    """Turns the operating system's errors about a JSON file into errors for people.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"JSON file {path} does not exist (working folder: {os.getcwd()}).") from error
    except OSError as error:
        raise UserError(f"JSON file {path} cannot be read: {error.strerror or error}.") from error


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Halves the time to make many lasting objects: the collector would inspect all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def is_plain_utf8(path: str) -> bool:
    """Whether readers that only know UTF-8, such as pycocotools, can read the file: it has neither a byte order mark nor two
    bytes per letter."""
    with open(path, "rb") as file:
        return json.detect_encoding(file.read(4)) == "utf-8"


@functools.lru_cache(maxsize=2)
def _kept(path: str, _mtime: int, _size: int) -> dict[str, Any]:
    return _parse(path)


def _parse(path: str) -> dict[str, Any]:
    with open(path, "rb") as file, no_garbage_collection():
        return _checked(path, _loads(path, file.read()))


def _checked(path: str, content: Any) -> dict[str, Any]:
    """Returns the content if it has the outline of a COCO-format file."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise UserError(f"{path} is not a COCO-format file: it must hold an object with a list 'images'.")
    for section in _SECTIONS:
        entries = content.get(section, [])
        if isinstance(entries, Entries):  # these are objects already
            continue
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path} is not a COCO-format file: '{section}' must be a list of objects.")
    return content


def _loads(path: str, data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass  # the json module accepts more (NaN, UTF-16), and explains better what it does not accept
    encoding = json.detect_encoding(data)
    try:
        return json.loads(data.decode(encoding))
    except json.JSONDecodeError as error:
        raise UserError(json_error_text(path, error)) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"JSON file {path} is not {encoding.upper().removesuffix('-SIG')} text: byte {error.start} (hexadecimal "
            f"{data[error.start]:02x}) has no meaning in it. If the file is in another encoding, such as Latin-1 or "
            "Windows-1252, save it as UTF-8; if it is damaged, copy it again."
        ) from error
    except ValueError as error:  # a number has thousands of digits
        raise UserError(f"JSON file {path} is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise UserError(f"JSON file {path} is not a COCO-format file: its lists are nested too deeply.") from error


def json_error_text(path: str, error: json.JSONDecodeError) -> str:
    """The message for someone whose JSON file does not parse: it is cut off, or wrong at a place."""
    length = len(error.doc)
    if not error.doc.strip():
        return f"JSON file {path} is empty. Copy or write it again."
    where = f"line {error.lineno}, column {error.colno}"
    if error.msg.startswith("Unterminated string") or _CUT.fullmatch(error.doc, error.pos):
        return (
            f"JSON file {path} is cut off at character {length} (last complete part before {where}). "
            "Copy, download or write it again."
        )
    near = error.doc[max(error.pos - 20, 0) : error.pos + 20]
    return f"JSON file {path} is not valid JSON: {error.msg} at {where}, near {near!r}."
