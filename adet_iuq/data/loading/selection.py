"""The images of a training, from all its data sets together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList

from adet_iuq.data.annotations.records import Records
from adet_iuq.data.record_sequence import Record, RecordSequence


class Selection(RecordSequence):
    """Records of several data sets, possibly a part of them, with `image_id` replaced by the position in the concatenation.

    The original id is kept as `dataset_image_id`. Each access makes a new record.
    """

    def __init__(self, parts: Sequence[Sequence[Record]], *, only_with_instances: bool = False) -> None:
        """
        Args:
            parts: the data sets.
            only_with_instances: whether images are left out that have the entry `annotations`, but without instances.
        """
        self._firsts = np.cumsum([0, *map(len, parts)])
        wanted = [_has_instance(part) if only_with_instances else np.ones(len(part), dtype=bool) for part in parts]
        self._places = np.flatnonzero(np.concatenate(wanted))
        self.is_wide = np.concatenate([_is_wide(part) for part in parts])[self._places]
        # A list is serialised once, so that data workers share its memory as well.
        self._parts = [DatasetFromList(part, copy=False) if isinstance(part, list) else part for part in parts]

    def __len__(self) -> int:
        return len(self._places)

    def record(self, place: int) -> Record:
        """A record of one of the parts with its new id."""
        place = int(self._places[place])
        number = int(np.searchsorted(self._firsts, place, side="right")) - 1
        record: Record = self._parts[number][place - int(self._firsts[number])]
        record["dataset_image_id"], record["image_id"] = record["image_id"], place
        return record


def _has_instance(records: Sequence[Record]) -> Any:
    """(N,) bool, whether each image has an instance; True for an image without the entry `annotations`."""
    if isinstance(records, Records):
        return records.has_instance
    annotations = (record.get("annotations") for record in records)
    return np.array([one is None or any(not a.get("iscrowd", 0) for a in one) for one in annotations], dtype=bool)


def _is_wide(records: Sequence[Record]) -> Any:
    """(N,) bool, whether an image is wider than high."""
    if isinstance(records, Records):
        return records.is_wide
    return np.array([record["width"] > record["height"] for record in records], dtype=bool)
