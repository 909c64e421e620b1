"""Everything that can be wrong with a small data set, each flaw by its name.

A flaw changes a `DataSet` in memory; `pick` says which entry it strikes. Flaws can be combined in any order.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from helpers.sound_set import HEIGHT, WIDTH, DataSet, picture, rectangle, run_lengths

Flaw = Callable[[DataSet, int], None]

# What a key may hold instead of what it should. `...` stands for a missing key.
VALUES: dict[str, Any] = {
    "missing": ...,
    "null": None,
    "a word": "word",
    "empty": "",
    "negative": -3,
    "zero": 0,
    "true": True,
    "a list": [1, 2],
    "an object": {"x": 1},
    "not a number": math.nan,
    "infinite": math.inf,
    "huge": 10**400,
    "a fraction": 0.5,
    "large": 1 << 60,
}


def _set(section: str, key: str, value: Any) -> Flaw:
    def strike(data: DataSet, pick: int) -> None:
        entries = data.content[section]
        if not entries:
            return
        entry = entries[pick % len(entries)]
        if value is ...:
            entry.pop(key, None)
        else:
            entry[key] = value

    return strike


def _shape(shape: Any, *, more: bool = False) -> Flaw:
    """Another segmentation for an annotation; `more`: for a new one beside it."""

    def strike(data: DataSet, pick: int) -> None:
        if more:
            number = 100 + len(data.content["annotations"])
            data.content["annotations"].append({**data.annotation(pick), "id": number, "segmentation": shape})
        else:
            data.annotation(pick)["segmentation"] = shape

    return strike


def _picture(make: Callable[[], bytes | None]) -> Flaw:
    def strike(data: DataSet, pick: int) -> None:
        content = make()
        if content is None:
            data.pictures.pop(data.file_of(pick), None)
        else:
            data.pictures[data.file_of(pick)] = content

    return strike


def _deep(dtype: str, low: float, high: float, kind: str = "TIFF") -> Flaw:
    ramp = np.linspace(low, high, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(dtype)
    return _picture(lambda: picture(ramp, kind))


def _turned(orientation: int, kind: str, stored: tuple[int, int]) -> Flaw:
    pixels = np.random.default_rng(1).integers(0, 256, (*stored, 3), dtype=np.uint8)
    return _picture(lambda: picture(pixels, kind, orientation))


def _encoded(encoding: str, share: float = 1.0) -> Flaw:
    def strike(data: DataSet, pick: int) -> None:
        data.encoding, data.text_share = encoding, share

    return strike


def _swap_sides(data: DataSet, pick: int) -> None:
    image = data.image(pick)
    image["height"], image["width"] = image.get("width"), image.get("height")


def _copy(section: str, **changes: Any) -> Flaw:
    def strike(data: DataSet, pick: int) -> None:
        entries = data.content[section]
        entries += [{**entry, **changes} for entry in entries[pick % max(len(entries), 1) :][:1]]

    return strike


def _rename(section: str, key: str, name: Any) -> Flaw:
    """Another id for an image or category, in its annotations too."""

    def strike(data: DataSet, pick: int) -> None:
        entries = data.content[section]
        if not entries:
            return
        entry = entries[pick % len(entries)]
        before, entry["id"] = entry.get("id"), name
        for annotation in data.content["annotations"]:
            if annotation.get(key) == before:
                annotation[key] = name

    return strike


def _same_ids(data: DataSet, pick: int) -> None:
    for annotation in data.content["annotations"]:
        annotation["id"] = 5


def _long_image(data: DataSet, pick: int) -> None:
    """A strip of one pixel's height, which a resize to its longer side would bring to none."""
    data.pictures["long.png"] = picture(np.full((1, 3000, 3), 9, np.uint8))
    data.content["images"].append({"id": 77, "file_name": "long.png", "height": 1, "width": 3000})
    shape = {"bbox": [0, 0, 2900, 1], "area": 2900, "segmentation": [rectangle(0, 0, 2900, 1)]}
    number = 100 + len(data.content["annotations"])
    data.content["annotations"].append({"id": number, "image_id": 77, "category_id": 3, "iscrowd": 0, **shape})


def _crowded(data: DataSet, pick: int) -> None:
    """More objects than COCO counts detections, all apart."""
    home = data.image(pick).get("id")
    for number in range(130):
        x, y = 4 + 9 * (number % 12), 4 + 8 * (number // 12)
        shape = {"bbox": [x, y, 5, 4], "area": 20, "segmentation": [rectangle(x, y, 5, 4)]}
        identity = 1000 + number
        data.content["annotations"].append({"id": identity, "image_id": home, "category_id": 9, "iscrowd": 0, **shape})


_LOST_POINT = rectangle(5, 6, 20, 10)
_LOST_POINT[2] = 2.5e8
_INSIDE_OUT = [5, 6, 1e308, -1e308, 25, 16, 5, 16]

FLAWS: dict[str, Flaw] = {
    f"{section} {key} {name}": _set(section, key, value)
    for section, keys in (
        ("annotations", ("iscrowd", "area", "bbox", "id", "image_id", "category_id", "segmentation")),
        ("images", ("height", "width", "id", "file_name")),
        ("categories", ("id", "name")),
    )
    for key in keys
    for name, value in VALUES.items()
}
FLAWS |= {
    "area far from the mask's": _set("annotations", "area", 9e6),
    "area as a word": _set("annotations", "area", "200"),
    "box turned round": _set("annotations", "bbox", [25, 16, -20, -10]),
    "box outside": _set("annotations", "bbox", [-500, -60, 20, 10]),
    "box of fractions": _set("annotations", "bbox", [0.1, 0.2, 0.5, 0.3]),
    "box of words": _set("annotations", "bbox", ["5", "6", "20", "10"]),
    "ids all the same": _same_ids,
    "annotation listed twice": _copy("annotations"),
    "annotation repeated": _copy("annotations", id=71),
    "annotation of no image": _copy("annotations", id=72, image_id=12345),
    "annotation of no category": _copy("annotations", id=73, category_id=12345),
    "image listed twice": _copy("images"),
    "two images of one id": _copy("images", file_name="8.png"),
    "category listed twice": _copy("categories"),
    "category of nothing": _copy("categories", id=42, name="unseen"),
    "two categories of one name": _copy("categories", id=41),
    "image id a word": _rename("images", "image_id", "seven"),
    "image id a fraction": _rename("images", "image_id", 7.5),
    "image id beyond floats": _rename("images", "image_id", (1 << 53) + 1),
    "image id beyond 64 bits": _rename("images", "image_id", 10**29),
    "category id a word": _rename("categories", "category_id", "nine"),
    "category id 0": _rename("categories", "category_id", 0),
    "category id negative": _rename("categories", "category_id", -4),
    "sizes as words": lambda data, pick: data.image(pick).update(height=str(HEIGHT), width=str(WIDTH)),
    "sizes as floats": lambda data, pick: data.image(pick).update(height=float(HEIGHT), width=float(WIDTH)),
    "sizes -1": lambda data, pick: data.image(pick).update(height=-1, width=-1),
    "sizes swapped": _swap_sides,
    "size wrong": lambda data, pick: data.image(pick).update(height=HEIGHT + 3),
    "polygon flat": _shape(rectangle(5, 6, 20, 10)),
    "polygon of points": _shape([[5, 6], [25, 6], [25, 16], [5, 16]]),
    "polygon nested": _shape([[[5, 6], [25, 6], [25, 16], [5, 16]]]),
    "polygon of words": _shape([[str(value) for value in rectangle(5, 6, 20, 10)]]),
    "polygon of two points": _shape([[5, 6, 25, 6]]),
    "polygon of an odd count": _shape([[5, 6, 25, 6, 25, 16, 5]]),
    "polygon with a hole in its numbers": _shape([[5, 6, None, 6, 25, 16, 5, 16]]),
    "polygon without parts": _shape([]),
    "polygon of an empty part": _shape([[]]),
    "polygon with nan": _shape([[5, 6, math.nan, 6, 25, 16, 5, 16]]),
    "polygon far out": _shape([_LOST_POINT]),
    "polygon to the end of the world": _shape([_INSIDE_OUT]),
    "polygon beside the image": _shape([rectangle(1000, 1000, 20, 20)], more=True),
    "polygon that crosses itself": _shape([[5, 5, 45, 45, 45, 5, 5, 45]]),
    "line": _shape([[5, 5, 15, 5, 10, 5]], more=True),
    "strip between pixel centres": _shape([[5, 5, 5.2, 5, 5.2, 25, 5, 25]], more=True),
    "diagonal hair": _shape([[2, 2, 118, 97, 118.02, 97, 2.02, 2]], more=True),
    "point": _shape([[5, 5, 5, 5, 5, 5]], more=True),
    "run lengths of nothing": _shape({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, more=True),
    "run lengths too short": _shape({"size": [HEIGHT, WIDTH], "counts": [50, 50]}, more=True),
    "run lengths of another size": _shape(run_lengths(2, 3, 10, 6, (30, 40)), more=True),
    "run lengths without size": _shape({"counts": [10, 20]}, more=True),
    "run lengths of words": _shape({"size": "100x120", "counts": "abc"}, more=True),
    "run lengths listed": _shape({"size": [HEIGHT, WIDTH], "counts": [500, 4000, HEIGHT * WIDTH - 4500]}),
    "run lengths in a list": _shape([run_lengths(10, 10, 30, 30)]),
    "byte order mark": _encoded("utf-8-sig"),
    "UTF-16": _encoded("utf-16"),
    "Latin-1": _encoded("latin-1"),
    "file cut off": _encoded("utf-8", 0.7),
    "file empty": _encoded("utf-8", 0.0),
    "image missing": _picture(lambda: None),
    "image damaged": _picture(lambda: picture()[:1000]),
    "JPEG cut off": _picture(lambda: picture(kind="JPEG")[:5000]),
    "image no image": _picture(lambda: b"no image"),
    "image empty": _picture(lambda: b""),
    "image grey": _picture(lambda: picture(np.full((HEIGHT, WIDTH), 90, np.uint8))),
    "image with alpha": _picture(lambda: picture(np.full((HEIGHT, WIDTH, 4), 90, np.uint8))),
    "16 bits PNG": _deep("uint16", 0, 65535, "PNG"),
    "16 bits narrow": _deep("uint16", 500, 900),
    "32 bits": _deep("int32", -5, 1e9),
    "floats": _deep("float32", 0, 1),
    "floats beyond 1": _deep("float32", 0, 300),
    "long image": _long_image,
    "crowded image": _crowded,
    "no images": lambda data, pick: data.content["images"].clear(),
    "no annotations": lambda data, pick: data.content["annotations"].clear(),
    "no categories": lambda data, pick: data.content["categories"].clear(),
}
FLAWS |= {
    f"orientation {orientation} {kind} {name}": _turned(orientation, kind, stored)
    for orientation in (3, 6, 7)
    for kind in ("PNG", "JPEG", "TIFF")
    for name, stored in (("as stored", (HEIGHT, WIDTH)), ("upright", (WIDTH, HEIGHT)))
}
