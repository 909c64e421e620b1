"""Small data sets as the folders that people have."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 30, 40
NAMES = ("apple", "pear")


def save_image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), **options: Any) -> None:
    """Noise, another one for every path, in an image of `size` (height, width) in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def coco(names: list[str]) -> dict[str, Any]:
    """A rectangle of each class in every image of these names."""
    boxes = ([4, 5, 12, 10], [20, 8, 15, 20])
    annotations = [
        {
            "id": 2 * image + category,
            "image_id": image,
            "category_id": category,
            "iscrowd": 0,
            "bbox": [x, y, w, h],
            "area": w * h,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for image in range(1, len(names) + 1)
        for category, (x, y, w, h) in enumerate(boxes, start=1)
    ]
    return {
        "images": [{"id": i, "file_name": n, "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names, start=1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
    }


def write_coco(path: Path, images: Path, names: list[str], **save: Any) -> None:
    """A COCO-format file, and its images in a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco(names)))
    for name in names:
        save_image(images / name, **save)


# Corners of an apple and a pear, as shares of an image.
APPLE = "0 0.1 0.2 0.4 0.2 0.4 0.5 0.1 0.5"
PEAR = "1 0.5 0.3 0.9 0.3 0.9 0.9 0.7 0.95 0.5 0.9"


def write_yolo(images: Path, labels: Path, texts: dict[str, str | None]) -> None:
    """Images by name, with the text of their label files; None: without one."""
    labels.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        save_image(images / name)
        if text is not None:
            (labels / name).with_suffix(".txt").write_text(text)
