"""A file's images in detectron2's format. Each record is made when it is asked for."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from adet_iuq.data.annotations.digest import Digest
from adet_iuq.data.annotations.digest_cache import Texts
from adet_iuq.data.annotations.record_text import decode
from adet_iuq.data.record_sequence import Record, RecordSequence
from adet_iuq.errors import UserError


class Records(RecordSequence):
    """N records, sorted by image id; each access makes a new one. They equal a list of equal records.

    If the annotations lie in a file, a pickle is small, because it only names that file.

    Raises, at any access:
        UserError: the file in the cache folder is damaged.
    """

    def __init__(self, digest: Digest, texts: Texts, image_root: str, classes: Sequence[int] | None = None) -> None:
        """
        Args:
            digest: the digest of the JSON file.
            texts: the annotations that belong to it.
            image_root: the folder that is put before the images' paths.
            classes: the new number of each of the file's class numbers.
        """
        self._digest, self._texts, self._root, self._classes = digest, texts, image_root, classes

    def __len__(self) -> int:
        return len(self._digest.images)

    def record(self, place: int) -> Record:
        """An image in detectron2's format, with its annotations as in the file."""
        path, height, width, identity = self._digest.images[place]
        record = {
            "file_name": os.path.join(self._root, path),
            "height": height,
            "width": width,
            "image_id": identity,
        }
        if self._digest.is_annotated:
            record["annotations"] = self._annotations(place)
        return record

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def renumbered(self, classes: Sequence[int]) -> "Records":
        """The same records with new class numbers; `classes` gives one for each of the file's."""
        return Records(self._digest, self._texts, self._root, classes)

    @property
    def is_wide(self) -> npt.NDArray[np.bool_]:
        """(N,) whether an image is wider than high."""
        return np.array([width > height for _, height, width, _ in self._digest.images], dtype=bool)

    @property
    def has_instance(self) -> npt.NDArray[np.bool_]:
        """(N,) whether an image has an annotation that is no crowd; True for all images of a file without annotations."""
        return (self._digest.objects > 0) | (not self._digest.is_annotated)

    def _annotations(self, place: int) -> list[dict[str, Any]]:
        ends = self._digest.ends
        text = self._texts.view[ends[place - 1] if place else 0 : ends[place]]
        try:
            return decode(text, self._classes)
        except (orjson.JSONDecodeError, TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"The annotations kept in {self._texts.place} are damaged. Delete that folder: it is made again."
            ) from error
