"""The folder of a small finished run, made by hand: images of squares, predictions, metrics."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adet_iuq.evaluation.source import Source, write_source
from helpers.sound_set import run_lengths

Entry = dict[str, Any]
SIZE = (40, 60)  # height, width
CAT, DOG = 3, 7  # category ids
EVIL = "<script>alert('x')</script>"


def square(x: int, y: int, side: int = 10, category: int = CAT, image: int = 1, **more: Any) -> Entry:
    """An object of the ground truth: a filled square."""
    shape = {"segmentation": run_lengths(x, y, side, side, SIZE), "bbox": [x, y, side, side], "area": side * side}
    return {"image_id": image, "category_id": category, "iscrowd": 0, **shape, **more}


def detection(x: int, y: int, score: float, side: int = 10, category: int = CAT, image: int = 1) -> Entry:
    found = square(x, y, side, category, image)
    return {key: found[key] for key in ("image_id", "category_id", "segmentation", "bbox")} | {"score": score}


def truth(objects: list[Entry], images: int = 2, names: tuple[str, str] = ("cat", "dog")) -> Entry:
    """A COCO-format file's content; images have the ids 1, 2, ..."""
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(1, images + 1)
        ],
        "annotations": [{**one, "id": number} for number, one in enumerate(objects, start=1)],
        "categories": [{"id": CAT, "name": names[0]}, {"id": DOG, "name": names[1]}],
    }


def source(ground_truth: Path | str = "", image_root: Path | str = "", **changes: Any) -> Source:
    values = {"task": "segm", "rules": "coco", "predictions": "coco_instances_results.json", "max_detections": 100}
    return Source(ground_truth=str(ground_truth), image_root=str(image_root), **{**values, **changes})


# Image 1: a cat that is found (0.9) and found again (0.6); a cat that is taken for a dog (0.8); a crowd of dogs with a dog
# in it (0.7), which does not count. Image 2: a dog that nothing finds; a cat where nothing is (0.5), one shifted by half its
# side (0.4), whose IoU of a third is too little.
OBJECTS = [
    square(0, 0),
    square(20, 0),
    square(0, 20, 20, DOG, iscrowd=1),
    square(5, 5, category=DOG, image=2),
    square(30, 5, image=2),
]
DETECTIONS = [
    detection(0, 0, 0.9),
    detection(1, 0, 0.6),
    detection(20, 0, 0.8, category=DOG),
    detection(2, 22, 0.7, category=DOG),
    detection(20, 25, 0.5, image=2),
    detection(35, 5, 0.4, image=2),
]


def write_set(
    folder: Path, name: str, content: Entry, predictions: list[Entry] | None, results: Entry | None = None, **how: Any
) -> None:
    """A test set of the run in `folder`, its images beside its JSON file."""
    place, data = folder / "inference" / name, folder.parent / f"data_{name}"
    place.mkdir(parents=True)
    data.mkdir(exist_ok=True)
    (data / "truth.json").write_text(json.dumps(content))
    for number, image in enumerate(content["images"]):
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / image["file_name"])
    noted = source(data / "truth.json", data, **how)
    write_source(str(place), noted)
    if predictions is not None:
        (place / noted.predictions).write_text(json.dumps(predictions))
    path = folder / "results.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    own = {"bbox": {"AP": 12.5, "AP50": None}, "segm": {"AP": 10.0, "AP50": 25.0}} if results is None else results
    path.write_text(json.dumps({**known, name: own}))


def write_metrics(folder: Path, steps: int = 100) -> None:
    """metrics.json of a run that was evaluated twice."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "iteration": i,
            "total_loss": 2 + 1 / (1 + i),
            "loss_mask": 0.5,
            "loss_mask_0": 0.7,
            "lr": 0.01 * i,
            "time": 0.1,
        }
        for i in range(0, steps, 5)
    ]
    lines += [{"iteration": i, "segm/AP": float(i), "bbox/AP": 1.0} for i in (steps // 2, steps)]
    (folder / "metrics.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
