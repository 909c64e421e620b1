"""Numbers and ids as people's files have them: as numbers, as words, or not at all."""

import math
from collections.abc import Iterable
from typing import Any

EXACT = 1 << 53  # whole numbers below are exact as floats, which NumPy and pycocotools make of them


def number(value: Any) -> float | None:
    """A finite number, or a word that says one; None for anything else, true and false among it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def whole_positive(value: Any) -> int | None:
    """A whole number above 0, also one written as 64.0 or "64"; None for anything else."""
    result = number(value)
    return int(result) if result is not None and 0 < result < EXACT and result == int(result) else None


def is_rounded(value: Any) -> bool:
    """Whether a number may be another one in its file: the parser makes floats of whole numbers beyond 64 bits."""
    return isinstance(value, float) and abs(value) >= EXACT


def is_id(value: Any) -> bool:
    """Whether a value can name something: a number or a word, but neither true, false nor not-a-number nor rounded."""
    if isinstance(value, float):
        return math.isfinite(value) and not is_rounded(value)
    return isinstance(value, int | str) and not isinstance(value, bool)


def sorted_ids(ids: Iterable[Any]) -> list[Any]:
    """Ids sorted, numbers before words, so that a mixture of both has an order too."""
    return sorted(ids, key=lambda i: (isinstance(i, str), i))


def sortable_together(ids: Iterable[Any]) -> bool:
    """Whether NumPy keeps the ids apart and as they are: all words, or all numbers that are exact as floats.

    pycocotools sorts ids with NumPy, which makes words of a mixture and then finds none of its annotations.
    """
    kinds = {isinstance(i, str) for i in ids}
    return kinds <= {True} or (kinds == {False} and all(abs(i) < EXACT for i in ids))


class IdTable(dict[Any, Any]):
    """What ids stand for. `find` also takes an id of another type, "7" for 7, where only one is meant."""

    def __init__(self, entries: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__(entries)
        self._by_word: dict[str, Any] | None = None

    def find(self, identity: Any) -> Any:
        """The id in the table that is meant; None if there is none, or if more than one could be."""
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
