"""Seconds and memory from a COCO-format JSON file to the loader: the first start, a later one, and two ranks.

    python tools/benchmark_startup.py [--scale 0.1] [--folder output/startup]

It makes a file of COCO's size (118,287 images, 850,174 annotations, 483 MB; `--scale` gives a share of it), whose images are
links to one picture. Each start runs in a fresh process, the first one with an empty cache folder. A start registers the
data set, fills in the class counts, checks the data and builds the training loader. detectron2's `load_coco_json` in the
same run is the reference. `peak GB` is the largest resident memory of a process, libraries and mapped files included; `own
GB` is its private memory at the end. CPU seconds mean more than seconds if others use the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

import numpy as np
import torch.distributed as dist
from detectron2.data.datasets import load_coco_json
from PIL import Image

from adet_iuq.config import get_cfg
from adet_iuq.data import build_train_loader, ensure_datasets_sound, fill_class_counts, register_datasets
from adet_iuq.data.registration.crowding import warn_of_crowded_images

IMAGES, ANNOTATIONS, CLASSES = 118_287, 850_174, 80
HEIGHT, WIDTH = 427, 640
COLUMNS = ("", "s", "CPU s", "peak GB", "own GB", "first batch s")
_LOOKS = 2000  # number of different outlines


def make_data(folder: Path, scale: float) -> None:
    """Writes `coco.json` and `images`, unless they exist."""
    images, root = round(IMAGES * scale), folder / "images"
    if (folder / "coco.json").exists():
        return
    root.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.jpg")
    entries = []
    for number in range(1, images + 1):
        name = f"{number:012d}.jpg"
        os.symlink(folder.absolute() / "picture.jpg", root / name)
        url = f"http://images.cocodataset.org/train2017/{name}"
        more = {"license": 3, "coco_url": url, "flickr_url": url, "date_captured": "2013-11-14 17:02:52"}
        entries.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH, **more})
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    with open(folder / "part.json", "w") as file:
        file.write(f'{{"images": {json.dumps(entries)}, "categories": {json.dumps(categories)}, "annotations": [')
        write_annotations(file, images, round(ANNOTATIONS * scale))
        file.write("]}")
    os.replace(folder / "part.json", folder / "coco.json")


def write_annotations(file: Any, images: int, count: int) -> None:
    """Writes ellipses of 8 to 51 points, one in a hundred as a crowd in run lengths, each of a random image and class."""
    generator = np.random.default_rng(1)
    looks = [json.dumps(outline(generator), separators=(",", ":"))[1:-1] for _ in range(_LOOKS)]
    runs = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 100, HEIGHT * 50, HEIGHT * (WIDTH - 150)]}
    crowd = {"segmentation": runs, "area": HEIGHT * 50, "bbox": [100, 0, 50, HEIGHT], "iscrowd": 1}
    looks[:: _LOOKS // 20] = [json.dumps(crowd)[1:-1]] * 20
    places = generator.integers(1, images + 1, count).tolist()
    classes = generator.integers(1, CLASSES + 1, count).tolist()
    for number, (image, category) in enumerate(zip(places, classes, strict=True), start=1):
        ids = f'"image_id":{image},"category_id":{category},"id":{number}'
        file.write(f"{',' if number > 1 else ''}{{{looks[number * 7919 % _LOOKS]},{ids}}}")


def outline(generator: np.random.Generator) -> dict[str, Any]:
    """An ellipse inside the image, with coordinates as COCO rounds them."""
    turns = np.linspace(0, 2 * np.pi, int(generator.integers(8, 52)), endpoint=False)
    (x, y), radii = generator.uniform((60, 60), (WIDTH - 60, HEIGHT - 60)), generator.uniform(6, 55, 2)
    points = np.stack([x + radii[0] * np.cos(turns), y + radii[1] * np.sin(turns)], axis=1).round(2)
    low, sides = points.min(axis=0), np.ptp(points, axis=0)
    after = np.roll(points, -1, axis=0)
    area = abs((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum()) / 2
    box = [*low.tolist(), *sides.round(2).tolist()]
    return {"segmentation": [points.reshape(-1).tolist()], "area": round(float(area), 4), "bbox": box, "iscrowd": 0}


def start_ours(folder: Path) -> Any:
    """Does everything with the data that a training does before its first batch; returns the loader."""
    cfg = get_cfg()
    cfg.DATASETS.REGISTER = [["startup", str(folder / "coco.json"), str(folder / "images")]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = ("startup",), ("startup",), 0
    register_datasets(cfg)
    fill_class_counts(cfg)
    warn_of_crowded_images(cfg)
    ensure_datasets_sound(cfg)
    return build_train_loader(cfg, images_per_batch=2)


def memory(key: str) -> float:
    """Gigabytes of this process's memory, by a line of its status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1]) * 1024 / 1e9


def measure(args: argparse.Namespace) -> None:
    """Measures one start, in a process of its own; prints its numbers as JSON."""
    if args.ranks > 1:
        store = f"file://{args.folder.absolute()}/store"
        dist.init_process_group("gloo", init_method=store, rank=args.rank, world_size=args.ranks)
        dist.barrier()
    start, cpu = time.perf_counter(), time.process_time()
    if args.measure == "ours":
        loader = start_ours(args.folder)
    else:
        load_coco_json(str(args.folder / "coco.json"), str(args.folder / "images"), "startup_of_detectron2")
    row = [time.perf_counter() - start, time.process_time() - cpu, memory("VmHWM"), memory("RssAnon")]
    if args.measure == "ours":
        start = time.perf_counter()
        assert len(next(iter(loader))) == 2 // args.ranks
        row.append(time.perf_counter() - start)
    print(json.dumps(row))


def run(args: argparse.Namespace, title: str, kind: str, ranks: int = 1) -> None:
    """Measures a start of several processes at once, and prints a line for each."""
    (args.folder / "store").unlink(missing_ok=True)
    environment = {**os.environ, "ADET_IUQ_CACHE": str(args.folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--folder", str(args.folder), "--measure", kind, "--ranks", str(ranks)]
    processes = [
        subprocess.Popen([*command, "--rank", str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    outputs = [process.communicate()[0] for process in processes]
    for rank, (process, output) in enumerate(zip(processes, outputs, strict=True)):
        if process.returncode:
            sys.exit(f"{title}: exit code {process.returncode}")
        name = f"{title}, rank {rank}" if ranks > 1 else title
        print_row(name, *(f"{number:.2f}" for number in json.loads(output.splitlines()[-1])))


def print_row(title: str, *cells: str) -> None:
    """One line of the table."""
    print(f"{title:<28}" + "".join(f"{cell:>15}" for cell in cells), flush=True)


def forget(folder: Path) -> None:
    """Empties the cache folder."""
    subprocess.run(["rm", "-rf", str(folder / "cache")], check=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of COCO's size")
    parser.add_argument("--folder", type=Path, help="where the data are made, and stay; default: a temporary folder")
    for name, kind in (("--measure", str), ("--rank", int), ("--ranks", int)):  # of the processes that this starts
        parser.add_argument(name, type=kind, default=None if kind is str else 1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary)
        make_data(args.folder, args.scale)
        forget(args.folder)
        size = (args.folder / "coco.json").stat().st_size / 1e6
        print(f"{args.folder / 'coco.json'}: {size:.0f} MB")
        print_row(*COLUMNS)
        run(args, "detectron2's load", "detectron2")
        run(args, "first start", "ours")
        run(args, "later start", "ours")
        run(args, "later start, two", "ours", ranks=2)
        forget(args.folder)
        run(args, "first start, two", "ours", ranks=2)


if __name__ == "__main__":
    main()
