"""Interprets numbers and ids in people's files: they may be numbers, words or missing."""

import math
from collections.abc import Iterable
from typing import Any

EXACT = 1 << 53  # smaller whole numbers are exact as floats, into which NumPy and pycocotools convert them


def number(value: Any) -> float | None:
    """A finite number, or a word that is one; None for anything else, including true and false."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def whole_positive(value: Any) -> int | None:
    """A whole number above 0, also if it is written as 64.0 or "64"; None for anything else."""
    result = number(value)
    return int(result) if result is not None and 0 < result < EXACT and result == int(result) else None


def is_rounded(value: Any) -> bool:
    """Whether a number may have been rounded: the parser turns whole numbers beyond 64 bits into floats."""
    return isinstance(value, float) and abs(value) >= EXACT


def is_id(value: Any) -> bool:
    """Whether a value can be an id: a number or a word, but not true, false, not-a-number or a rounded number."""
    if isinstance(value, float):
        return math.isfinite(value) and not is_rounded(value)
    return isinstance(value, int | str) and not isinstance(value, bool)


def sorted_ids(ids: Iterable[Any]) -> list[Any]:
    """The ids sorted with numbers before words, so that a mixture of both has an order too."""
    return sorted(ids, key=lambda i: (isinstance(i, str), i))


def sortable_together(ids: Iterable[Any]) -> bool:
    """Whether NumPy keeps the ids different and unchanged: all are words, or all are numbers that are exact as floats.

    pycocotools sorts ids with NumPy, which turns a mixture into words and then finds none of its annotations.
    """
    kinds = {isinstance(i, str) for i in ids}
    return kinds <= {True} or (kinds == {False} and all(abs(i) < EXACT for i in ids))


class IdTable(dict[Any, Any]):
    """Entries by id. `find` also accepts an id of another type, "7" for 7, if only one entry can be meant."""

    def __init__(self, entries: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__(entries)
        self._by_word: dict[str, Any] | None = None

    def find(self, identity: Any) -> Any:
        """The id in the table that is meant; None if there is none, or more than one."""
        if not is_id(identity):
            return None
        if identity in self:
            return identity
        if self._by_word is None:
            self._by_word = {}
            for known in self:
                word = _word(known)
                self._by_word[word] = None if word in self._by_word else known
        return self._by_word.get(_word(identity))


def _word(identity: Any) -> str:
    whole = isinstance(identity, float) and identity == int(identity)
    return str(int(identity) if whole else identity).strip()
