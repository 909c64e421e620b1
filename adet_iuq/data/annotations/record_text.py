"""Converts an image's annotations, as detectron2's records have them, to JSON text and back."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from detectron2.structures import BoxMode

Annotation = dict[str, Any]


def encode(annotation: Annotation, numbers: dict[Any, int]) -> bytes:
    """The text of a record's annotation in canonical form; `numbers` are the class numbers by category id."""
    kept = (annotation["iscrowd"], annotation["bbox"], numbers[annotation["category_id"]], annotation["segmentation"])
    return orjson.dumps(kept, default=_run_lengths)


def joined(texts: Iterable[bytes | bytearray]) -> bytes:
    """The text of all annotations of an image."""
    return b"[" + b",".join(texts) + b"]"


def decode(text: bytes | memoryview, classes: Sequence[int] | None = None) -> list[Annotation]:
    """The annotations of a record; `classes` replaces each class number by another one."""
    return [
        {
            "iscrowd": crowd,
            "bbox": [float(value) for value in box],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": number if classes is None else classes[number],
            "segmentation": segmentation if isinstance(segmentation, list) else _mask(segmentation),
        }
        for crowd, box, number, segmentation in orjson.loads(text)
    ]


def _run_lengths(counts: Any) -> list[str]:
    """pycocotools compresses run lengths to bytes, which JSON lacks. Canonical masks never have them as a list."""
    return [str(counts, "ascii")]


def _mask(segmentation: dict[str, Any]) -> dict[str, Any]:
    counts = segmentation["counts"]
    return segmentation if isinstance(counts, str) else {**segmentation, "counts": counts[0].encode("ascii")}
