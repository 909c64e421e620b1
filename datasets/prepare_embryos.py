"""Makes the data set "embryos" (Drosophila embryos from above) in COCO's format from its public source.

    git clone https://github.com/risingmin/embryo_model_train
    git -C embryo_model_train checkout b78a6c5
    python datasets/prepare_embryos.py --source embryo_model_train      # or a zip file of it; writes $ADET_IUQ_DATA/embryos

The source (CC BY 4.0) is a COCO export of Roboflow: `train`, `valid` and `test`, each with `_annotations.coco.json` beside
its images SESSION-NUMBER_jpg.rf.HASH.jpg; a photo comes up to three times, augmented. Whole recording sessions are held
out here, so that no field of view is on both sides, and val takes each photo once. Pictures are scaled to 512 pixels.

Tested on a made-up export, and on one made from the finished set, which gives its JSON files again. The clone itself and
the scaling of the original pictures have not been tested; the checksums at the end judge them.
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from PIL import Image
from preparation import SPLITS, prepare, write_coco

from adet_iuq.errors import UserError

VAL_SESSIONS = ("6d40", "7d44")
PUBLISHED_SPLITS = ("test", "valid", "train")  # the order in which pictures are numbered
LONGEST_SIDE = 512  # pixels
ANNOTATIONS = "_annotations.coco.json"
HOW_TO_GET = """\
    git clone https://github.com/risingmin/embryo_model_train
    git -C embryo_model_train checkout b78a6c5
    python datasets/prepare_embryos.py --source embryo_model_train"""


@dataclass(frozen=True)
class Picture:
    """One picture of the export: its folder (also the name of its split), its COCO record and its annotations."""

    folder: Path
    record: dict[str, Any]
    annotations: list[dict[str, Any]]


def photo_of(file_name: str) -> str:
    """The photo that a picture of the export was made from: "1d30-1" for "1d30-1_jpg.rf.090bb4fa.jpg"."""
    return file_name.partition("_jpg.rf.")[0]


def session_of(file_name: str) -> str:
    """The recording session of a picture: what stands before the first hyphen of its name."""
    return file_name.partition("-")[0]


def read_export(source: Path) -> tuple[list[Picture], dict[int, str]]:
    """All pictures in the order of their numbers, and the names of the categories by id.

    Raises:
        UserError: the folder holds no export, several exports, or only a part of one.
    """
    found = sorted(path.parents[1] for path in source.rglob(f"train/{ANNOTATIONS}"))
    if len(found) != 1:
        raise UserError(f"{source} holds {len(found)} folders with train/{ANNOTATIONS}; one is expected.")
    pictures, names = [], {}
    for split in PUBLISHED_SPLITS:
        path = found[0] / split / ANNOTATIONS
        if not path.is_file():
            raise UserError(f"{path} is missing; the export has {', '.join(PUBLISHED_SPLITS)}.")
        data = json.loads(path.read_text())
        names.update({category["id"]: category["name"] for category in data["categories"]})
        annotations = defaultdict(list)
        for annotation in data["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        records = sorted(data["images"], key=lambda record: str(record["file_name"]))
        pictures += [Picture(path.parent, record, annotations[record["id"]]) for record in records]
    return pictures, names


def chosen(pictures: list[Picture], split: str) -> list[Picture]:
    """The pictures of a split ("train", "val"), chosen by session; val has only the first picture of each photo."""
    mine = [p for p in pictures if (session_of(p.record["file_name"]) in VAL_SESSIONS) == (split == "val")]
    if split == "train":
        return mine
    first: dict[str, Picture] = {}
    for picture in mine:
        first.setdefault(photo_of(picture.record["file_name"]), picture)
    return list(first.values())


def scaled(polygons: list[list[float]], scale: tuple[float, float], size: tuple[int, int]) -> list[list[float]]:
    """Polygons [x, y, x, y, ...] times `scale` (x, y), cut off at the borders of a picture of `size` (width, height)."""
    return [
        [round(min(max(value * scale[i % 2], 0), size[i % 2]), 2) for i, value in enumerate(polygon)]
        for polygon in polygons
        if len(polygon) >= 6
    ]


def geometry(polygons: list[list[float]]) -> dict[str, Any] | None:
    """Area, box and segmentation of a COCO annotation; None for slivers (under 4 square pixels, or 1 pixel a side)."""
    xs = [value for polygon in polygons for value in polygon[::2]]
    ys = [value for polygon in polygons for value in polygon[1::2]]
    if not xs:
        return None
    area = sum(_area(polygon) for polygon in polygons)
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    if area < 4 or width < 1 or height < 1:
        return None
    box = [round(min(xs), 2), round(min(ys), 2), round(width, 2), round(height, 2)]
    return {"area": round(area, 2), "bbox": box, "segmentation": polygons}


def _area(polygon: list[float]) -> float:
    """The shoelace formula."""
    n = len(polygon)
    doubled = (polygon[i] * polygon[(i + 3) % n] - polygon[(i + 2) % n] * polygon[i + 1] for i in range(0, n, 2))
    return abs(sum(doubled)) / 2


def convert(picture: Picture, names: dict[int, str], target: Path) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Writes the scaled picture to `target`; returns its size (width, height), geometry and label of each annotation."""
    image = Image.open(picture.folder / picture.record["file_name"]).convert("RGB")
    if image.size != (picture.record["width"], picture.record["height"]):
        raise UserError(f"{picture.folder / picture.record['file_name']} does not have the size that its record says.")
    factor = min(1, LONGEST_SIDE / max(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    scale = (size[0] / image.width, size[1] / image.height)
    image.resize(size, Image.Resampling.LANCZOS).save(target, quality=85, optimize=True)
    shapes = [(a, geometry(scaled(a["segmentation"], scale, size))) for a in picture.annotations]
    return size, [{**shape, "label": names[annotation["category_id"]]} for annotation, shape in shapes if shape]


def write_split(pictures: list[Picture], names: dict[int, str], output: Path, split: str) -> None:
    """Writes the pictures and the JSON file of one split; the export's classes (stages) become one, kept as `label`."""
    (output / split).mkdir(parents=True, exist_ok=True)

    def entry(number: int, picture: Picture) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        file_name = f"{number:04d}.jpg"
        (width, height), shapes = convert(picture, names, output / split / file_name)
        origin = {"source": picture.record["file_name"], "published_split": picture.folder.name}
        return {"file_name": file_name, "width": width, "height": height, **origin}, shapes

    write_coco(
        output,
        split,
        (entry(number, picture) for number, picture in enumerate(pictures, start=1)),
        description="embryos",
        licenses=[{"id": 1, "name": "CC BY 4.0"}],
        category="embryo",
    )


def write(source: Path, output: Path) -> None:
    """Converts the export below `source` to `output`; see `write_split`."""
    pictures, names = read_export(source)
    for split in SPLITS:
        write_split(chosen(pictures, split), names, output, split)


def main(arguments: list[str] | None = None) -> int:
    """Reads the arguments and makes the data set; returns the exit code."""
    return prepare("embryos", str(__doc__), HOW_TO_GET, write, arguments)


if __name__ == "__main__":
    sys.exit(main())
