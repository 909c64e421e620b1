"""A small data set without a flaw, in memory, with its image files: what tests change before they write it."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

HEIGHT, WIDTH = 100, 120
Entry = dict[str, Any]


@dataclass
class DataSet:
    """A COCO-format file's content, how its text becomes bytes, and the image files beside it."""

    content: dict[str, list[Entry]]
    pictures: dict[str, bytes]
    encoding: str = "utf-8"
    text_share: float = 1.0

    def image(self, pick: int) -> Entry:
        """One of the entries; where there are none, one that is not in the list."""
        entries = self.content["images"]
        return entries[pick % len(entries)] if entries else {}

    def annotation(self, pick: int) -> Entry:
        entries = self.content["annotations"]
        return entries[pick % len(entries)] if entries else {}

    def file_of(self, pick: int) -> str:
        """One of the three names that the sound set has."""
        return ("7.png", "8.png", "9.png")[pick % 3]

    def write(self, folder: Path) -> Path:
        """Writes all of it; returns the JSON file."""
        for name, data in self.pictures.items():
            (folder / name).write_bytes(data)
        path = folder / "data.json"
        text = json.dumps(self.content, ensure_ascii=False)
        path.write_bytes(text[: int(len(text) * self.text_share)].encode(self.encoding))
        return path


def picture(pixels: np.ndarray | None = None, kind: str = "PNG", orientation: int | None = None) -> bytes:
    """An image file's bytes; noise unless pixels are given."""
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    Image.fromarray(pixels).save(buffer, format=kind, exif=exif)
    return buffer.getvalue()


def rectangle(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def run_lengths(x: int, y: int, width: int, height: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Entry:
    mask = np.zeros(size, dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def sound_set() -> DataSet:
    """Three images, two categories, five objects (small, medium and large; polygons, one in parts, and an RLE), a crowd."""
    shapes: list[tuple[int, int, list[float], Any]] = [
        (7, 3, [5, 6, 20, 10], [rectangle(5, 6, 20, 10)]),
        (7, 9, [50, 30, 50, 40], run_lengths(50, 30, 50, 40)),
        (8, 3, [4, 2, 110, 96], [rectangle(4, 2, 110, 96)]),
        (9, 9, [10, 10, 75, 40], [rectangle(10, 10, 30, 40), rectangle(55, 10, 30, 40)]),
        (9, 3, [60, 70, 24, 20], [[60, 80, 66, 72, 72, 70, 80, 73, 84, 80, 78, 88, 70, 90, 63, 86]]),
        (8, 9, [1, 1, 30, 30], run_lengths(1, 1, 30, 30)),
    ]
    annotations = []
    for number, (image, category, box, shape) in enumerate(shapes, start=1):
        parts = mask_util.merge(mask_util.frPyObjects(shape, HEIGHT, WIDTH)) if isinstance(shape, list) else shape
        entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "segmentation": shape}
        annotations.append({**entry, "area": float(mask_util.area(parts)), "iscrowd": int(number == 6)})
    images = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (7, 8, 9)]
    categories = [{"id": 9, "name": "cät"}, {"id": 3, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return DataSet(content, {f"{i}.png": picture() for i in (7, 8, 9)})
