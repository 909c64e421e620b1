"""The images that a training goes through, of all its data sets together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList

from adet_iuq.data.annotations.records import Records
from adet_iuq.data.record_sequence import Record, RecordSequence


class Selection(RecordSequence):
    """Records of several data sets, `image_id` replaced by the position in their concatenation, possibly not all of them.

    The original id stands in `dataset_image_id`. Each access makes a new record.
    """

    def __init__(self, parts: Sequence[Sequence[Record]], *, only_with_instances: bool = False) -> None:
        """
        Args:
            parts: data sets.
            only_with_instances: leaves out images that have annotations wanted, but none or none but crowds.
        """
        self._firsts = np.cumsum([0, *map(len, parts)])
        wanted = [_has_instance(part) if only_with_instances else np.ones(len(part), dtype=bool) for part in parts]
        self._places = np.flatnonzero(np.concatenate(wanted))
        self.is_wide = np.concatenate([_is_wide(part) for part in parts])[self._places]
        # Serialised once, so that data workers share the memory of a list as well.
        self._parts = [DatasetFromList(part, copy=False) if isinstance(part, list) else part for part in parts]

    def __len__(self) -> int:
        return len(self._places)

    def record(self, place: int) -> Record:
        """A record of one of the parts, with its new id."""
        place = int(self._places[place])
        number = int(np.searchsorted(self._firsts, place, side="right")) - 1
        record: Record = self._parts[number][place - int(self._firsts[number])]
        record["dataset_image_id"], record["image_id"] = record["image_id"], place
        return record


def _has_instance(records: Sequence[Record]) -> Any:
    """(N,) bool; an image without the entry `annotations` may have anything."""
    if isinstance(records, Records):
        return records.has_instance
    annotations = (record.get("annotations") for record in records)
    return np.array([one is None or any(not a.get("iscrowd", 0) for a in one) for one in annotations], dtype=bool)


def _is_wide(records: Sequence[Record]) -> Any:
    """(N,) bool, whether an image is wider than high."""
    if isinstance(records, Records):
        return records.is_wide
    return np.array([record["width"] > record["height"] for record in records], dtype=bool)
