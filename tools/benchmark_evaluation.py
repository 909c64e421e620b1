"""Images a second of a whole evaluation by COCO's metrics, without the model, part by part and for each backend.

    python tools/benchmark_evaluation.py --images 250 500 1000 --objects 100

Every image is a dense scene of ellipses, and the predictions are the same ellipses, slightly moved, as a segmenter has them
before it pastes: probabilities at a quarter of the size. What is timed goes through the code of an evaluation:

    pasting       probabilities to masks of the image's size (CondInst's way)
    RLE           masks to run lengths
    results       run lengths to COCO's format
    accumulation  the file of results and the comparison with the ground truth, of boxes and masks

Several numbers of images show whether the time for an image grows with their number; it should not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import Tensor

from adet_iuq.evaluation.backends import BACKENDS, find_backend
from adet_iuq.evaluation.coco import InstanceEvaluator
from adet_iuq.modeling.layers import encoded_masks
from adet_iuq.modeling.layers.paste import pasted_masks

STRIDE = 4
CORNERS = 24  # of the polygons of the ground truth
CLASSES = 3
DATA_SET = "dense_scenes_of_benchmark_evaluation"


@dataclass(frozen=True)
class Scene:
    """Ellipses in a grid, moved at random, so that neighbours touch and overlap; all tensors float32, in pixels.

    Attributes:
        centers: (N, 2) x and y.
        radii: (N, 2) along x and y.
        classes: (N,) long.
        shifts: (N, 2) how far the prediction lies from the truth.
        scores: (N,) of the predictions.
    """

    centers: Tensor
    radii: Tensor
    classes: Tensor
    shifts: Tensor
    scores: Tensor


def draw_scene(size: tuple[int, int], objects: int, seed: int) -> Scene:
    """A scene of so many objects in an image of `size` (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    columns = math.ceil(math.sqrt(objects * width / height))
    rows = math.ceil(objects / columns)
    cell = torch.tensor([width / columns, height / rows])
    places = torch.arange(objects)
    grid = torch.stack([places % columns, places // columns], dim=1) + 0.5
    draws = torch.rand(objects, 6, generator=generator)
    return Scene(
        centers=(grid + 0.4 * (draws[:, :2] - 0.5)) * cell,
        radii=(0.3 + 0.35 * draws[:, 2:4]) * cell,
        classes=torch.randint(CLASSES, (objects,), generator=generator),
        shifts=0.3 * (draws[:, 4:] - 0.5) * cell,
        scores=torch.rand(objects, generator=generator),
    )


def coco_annotations(scene: Scene, image_id: int, first_id: int) -> Iterator[dict[str, Any]]:
    """The scene's objects in COCO's format, as polygons."""
    angles = torch.arange(CORNERS) * (2 * math.pi / CORNERS)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    for number, (center, radii) in enumerate(zip(scene.centers, scene.radii, strict=True)):
        corners = center + radii * circle
        low, high = corners.amin(0), corners.amax(0)
        yield {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": int(scene.classes[number]) + 1,
            "iscrowd": 0,
            "area": float(math.pi * radii.prod()),
            "bbox": [*low.tolist(), *(high - low).tolist()],
            "segmentation": [corners.flatten().tolist()],
        }


def probabilities(scene: Scene, size: tuple[int, int]) -> Tensor:
    """(N, height / 4, width / 4): what a segmenter would say of the moved ellipses, 0.5 at their edges."""
    y, x = ((torch.arange(side // STRIDE) + 0.5) * STRIDE for side in size)
    centers = scene.centers + scene.shifts
    along_x = ((x - centers[:, :1]) / scene.radii[:, :1]).square()
    along_y = ((y - centers[:, 1:]) / scene.radii[:, 1:]).square()
    return torch.sigmoid(8 * (1 - along_x[:, None, :] - along_y[:, :, None]))


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time within to a part."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def write_truth(scenes: list[Scene], size: tuple[int, int], folder: Path) -> None:
    """Writes the ground truth, and makes it known as DATA_SET."""
    height, width = size
    content: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": number, "height": height, "width": width} for number in range(1, len(scenes) + 1)],
        "categories": [{"id": number + 1, "name": f"class {number}"} for number in range(CLASSES)],
        "annotations": [
            annotation
            for number, scene in enumerate(scenes)
            for annotation in coco_annotations(scene, number + 1, 1 + number * len(scene.centers))
        ],
    }
    path = folder / f"{len(scenes)}.json"
    path.write_text(json.dumps(content))
    if DATA_SET in MetadataCatalog.list():
        MetadataCatalog.remove(DATA_SET)
    numbers = {number + 1: number for number in range(CLASSES)}
    names = [one["name"] for one in content["categories"]]
    MetadataCatalog.get(DATA_SET).set(
        json_file=str(path), image_root=str(folder), thing_classes=names, thing_dataset_id_to_contiguous_id=numbers
    )


def evaluate(scenes: list[Scene], size: tuple[int, int], backend: str, folder: Path) -> tuple[Clock, float]:
    """The seconds of each part, and AP of the masks."""
    evaluator = InstanceEvaluator(DATA_SET, tasks=("bbox", "segm"), output_dir=str(folder), backend=backend)
    evaluator.reset()
    clock = Clock()
    for number, scene in enumerate(scenes, start=1):
        maps = probabilities(scene, size)
        with clock.part("pasting"):
            chunks = list(pasted_masks(maps, STRIDE, size, size))
        with clock.part("RLE"):
            masks = encoded_masks(chunks, size)
        with clock.part("results"):
            found = Instances(size, scores=scene.scores, pred_classes=scene.classes)
            found.pred_boxes, found.pred_masks = Boxes(masks.boxes()), masks
            evaluator.process([{"image_id": number}], [{"instances": found}])
    with clock.part("accumulation"), contextlib.redirect_stdout(io.StringIO()):
        results = evaluator.evaluate()
    return clock, float(results["segm"]["AP"])


def parse_args() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000])
    parser.add_argument("--objects", type=int, default=100, help="in an image")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=["pycocotools"])
    return parser.parse_args()


def main() -> None:
    """Prints a line for each number of images and backend."""
    args = parse_args()
    size = (args.size[0] // STRIDE * STRIDE, args.size[1] // STRIDE * STRIDE)
    for name in args.backends:
        find_backend(name)
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    parts = ("pasting", "RLE", "results", "accumulation")
    line = "{:>7}  {:>16}  {:>9}  {:>9}  {:>9}  {:>12}  {:>9}  {:>8}"
    print(f"{args.objects} objects an image of {size[0]} x {size[1]}, {torch.get_num_threads()} threads; seconds")
    print(line.format("images", "backend", *parts, "images/s", "segm AP"))
    scenes = [draw_scene(size, args.objects, seed) for seed in range(max(args.images))]
    for count in args.images:
        with TemporaryDirectory() as folder:
            write_truth(scenes[:count], size, Path(folder))
            for backend in args.backends:
                clock, precision = evaluate(scenes[:count], size, backend, Path(folder))
                seconds = [clock.seconds[part] for part in parts]
                rate = count / sum(seconds)
                numbers = [f"{second:.2f}" for second in seconds]
                print(line.format(count, backend, *numbers, f"{rate:.1f}", f"{precision:.3f}"), flush=True)


if __name__ == "__main__":
    main()
