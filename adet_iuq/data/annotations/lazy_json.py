"""Reads JSON files of COCO's size with little memory: lists of objects are located first, and parsed only when asked for.

Parsed at once, half a gigabyte of polygons takes four to eight gigabytes of memory. This module needs the file's own
size and a few thousand entries at a time. The results are those of a parser that reads the whole file.
"""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import orjson

Entry = dict[str, Any]
Places = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_BLOCK = 16 << 20  # number of bytes that are searched at once
_QUOTE, _BACKSLASH = b'"\\'
_STEP = np.zeros(256, dtype=np.int8)  # change of the depth at each byte outside of strings
_STEP[list(b"{[")], _STEP[list(b"}]")] = 1, -1
_MARKS = _STEP != 0
_MARKS[[_QUOTE, _BACKSLASH]] = True
_OPENS, _CLOSES = _STEP > 0, _STEP < 0
_SPACE = b" \t\r\n"
_STAND_IN = [0]  # stands in the outline in place of a list


class Entries(Sequence[Entry]):
    """A list of objects in a JSON text, which parses them at each access.

    Raises, at any access:
        orjson.JSONDecodeError: JSON does not allow an entry.
    """

    def __init__(self, text: bytes, starts: Places, ends: Places) -> None:
        """
        Args:
            text: the text of the whole file.
            starts: (N,) the position where each object begins. Only commas and space lie between objects.
            ends: (N,) the position behind the end of each object.
        """
        self._text, self._starts, self._ends = text, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if not isinstance(index, slice):
            entry: Entry = orjson.loads(self._text[self._starts[index] : self._ends[index]])
            return entry
        start, stop, step = index.indices(len(self))
        assert step == 1
        if start >= stop:
            return []
        entries: list[Entry] = orjson.loads(b"[" + self._text[self._starts[start] : self._ends[stop - 1]] + b"]")
        return entries


def outline(text: bytes, sections: Sequence[str]) -> dict[str, Any] | None:
    """The content of a JSON object, with its `sections` (lists of objects) as `Entries`.

    Returns:
        None for everything that a plain parser should judge: an encoding other than UTF-8, no object, a list with
        entries that are no objects, an error.
    """
    places, kinds, depths = _landmarks(text)
    opens, closes = _OPENS[kinds], _CLOSES[kinds]
    lists = list(zip(places[opens & (depths == 2)], places[closes & (depths == 1)], strict=False))
    quotes = places[kinds == _QUOTE]
    starts, ends = places[opens & (depths == 3)], places[closes & (depths == 2)] + 1
    if not len(depths) or depths[-1] != 0 or len(starts) != len(ends):
        return None
    found: dict[str, Entries] = {}
    rest, done = [], 0
    try:
        for first, last in lists:
            here = slice(*np.searchsorted(starts, (first, last)))
            before = int(np.searchsorted(quotes, first))
            key = orjson.loads(text[quotes[before - 2] : quotes[before - 1] + 1]) if before > 1 else ""
            if key not in sections or here.start == here.stop:
                continue
            entries = Entries(text, starts[here], ends[here])
            if not _is_list(text, int(first), starts[here], ends[here]):
                return None
            found[key] = entries
            rest += [text[done : starts[here.start]], orjson.dumps(_STAND_IN)[1:-1]]
            done = ends[here.stop - 1]
        content = orjson.loads(b"".join([*rest, text[done:]]))
    except orjson.JSONDecodeError:
        return None
    if not isinstance(content, dict) or any(content.get(key) != _STAND_IN for key in found):
        return None
    return {**content, **found}


def _landmarks(text: bytes) -> tuple[Places, Bytes, npt.NDArray[np.int32]]:
    """Positions, bytes and depths (after the bytes) of all brackets down to the entries of the lists at the top, and of the
    quotes of the top's keys and words."""
    raw = np.frombuffer(text, dtype=np.uint8)
    found: list[tuple[Places, Bytes, npt.NDArray[np.int32]]] = []
    inside, depth, start = 0, 0, 0
    while start < len(raw):
        end = min(start + _BLOCK, len(raw))
        while end < len(raw) and raw[end - 1] == _BACKSLASH:
            end += 1
        places = _marks(raw[start:end])
        kinds = raw[start:end][places]
        is_quote = kinds == _QUOTE
        in_string = (np.cumsum(is_quote, dtype=np.int32) + inside) & 1
        steps = np.where(in_string == 1, 0, _STEP[kinds])
        depths = np.cumsum(steps, dtype=np.int32) + depth
        kept = ((steps == 1) & (depths <= 3)) | ((steps == -1) & (depths <= 2)) | (is_quote & (depths == 1))
        found.append((places[kept] + start, kinds[kept], depths[kept]))
        if len(places):
            inside, depth = int(in_string[-1]), int(depths[-1])
        start = end
    if inside or not found:
        return np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int32)
    places, kinds, depths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return places, kinds, depths


def _marks(block: Bytes) -> Places:
    """The positions of brackets and of unescaped quotes in a block, which must not begin after a backslash."""
    places = np.flatnonzero(_MARKS[block])
    is_backslash = block[places] == _BACKSLASH
    if not is_backslash.any():
        return places
    backslashes = places[is_backslash]
    number = np.arange(len(backslashes))
    begins = np.diff(backslashes, prepend=-2) != 1
    in_row = number - np.maximum.accumulate(np.where(begins, number, 0))
    escaped = backslashes[in_row % 2 == 0] + 1
    return places[~is_backslash & ~np.isin(places, escaped)]


def _is_list(text: bytes, first: int, starts: Places, ends: Places) -> bool:
    """Whether a list holds only objects, with one comma between each and the next."""
    begins = np.frombuffer(text, dtype=np.uint8)[starts] == ord("{")
    if text[first : first + 1] != b"[" or text[first + 1 : starts[0]].strip(_SPACE) or not begins.all():
        return False
    gaps = zip(ends[:-1].tolist(), starts[1:].tolist(), strict=True)
    return all(text[end:start].strip(_SPACE) == b"," for end, start in gaps)
