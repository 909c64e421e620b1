"""A sequence whose records are made when they are asked for."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, overload

Record = dict[str, Any]


class RecordSequence(Sequence[Record]):
    """A subclass has `__len__` and makes single records. This class adds negative indices and slices."""

    @abstractmethod
    def record(self, place: int) -> Record:
        """The record at a place from 0 to N - 1, a new one each time."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        places = range(len(self))[index]
        return self.record(places) if isinstance(places, int) else [self.record(place) for place in places]
