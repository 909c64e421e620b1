"""What the preparing scripts share: finding the source, choosing the output folder, and checking the result.

`checksums/NAME.json` holds for each split of a data set the sha256 of every image's pixels (RGB, rows from the top; not of
the file, whose bytes depend on the encoder) by its file name, in the order of the JSON file, and one sha256 of all masks.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from PIL import Image

from adet_iuq.errors import EXIT_USER_ERROR, UserError

SPLITS = ("train", "val")
VARIABLE = "ADET_IUQ_DATA"
_NAMED = 5  # number of differing files that are named; the others are counted


def prepare(
    name: str, description: str, how_to_get: str, write: Callable[[Path, Path], None], arguments: list[str] | None
) -> int:
    """Runs the command line of a preparing script; returns the exit code.

    Args:
        name: the name of the data set and of its list of checksums.
        description: the help text.
        how_to_get: the commands that fetch the source, which are shown if it is missing.
        write: the function that converts the folder of the source to `{train,val}.json` and images in another folder.
        arguments: the command line; None: that of the process.
    """  # noqa: DOC501  it is caught here
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder or zip file of the source; without it: says how to get it")
    parser.add_argument("--output", type=Path, help=f"folder to write (default: ${VARIABLE}/{name})")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.source is None:
            raise UserError(f"This script does not download. Get the source, then name it with --source:\n{how_to_get}")
        output = parsed.output or data_folder(name)
        with opened(parsed.source) as source:
            _write_once(write, source, output)
        verify(output, known_checksums(name))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"{output}: images and masks are those of datasets/checksums/{name}.json")
    return 0


def data_folder(name: str) -> Path:
    """The folder of a data set below $ADET_IUQ_DATA.

    Raises:
        UserError: the variable is not set.
    """
    if not os.environ.get(VARIABLE):
        raise UserError(f"The environment variable {VARIABLE} is not set; set it, or name the path (--help).")
    return Path(os.environ[VARIABLE]) / name


def _write_once(write: Callable[[Path, Path], None], source: Path, output: Path) -> None:
    there = [output / f"{split}.json" for split in SPLITS if (output / f"{split}.json").exists()]
    if there:
        raise UserError(f"{there[0]} exists. Remove {output}, or name another folder with --output.")
    try:
        write(source, output)
    except OSError as error:
        raise UserError(f"Preparing {output} from {source} failed: {error}.") from error


@contextmanager
def opened(source: Path) -> Iterator[Path]:
    """The source as a folder: itself, or a zip file that is unpacked for the time of the block.

    Raises:
        UserError: the source is neither a folder nor a zip file.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file() or not zipfile.is_zipfile(source):
        raise UserError(f"--source {source} is neither a folder nor a (whole) zip file.")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
        yield Path(folder)


def write_coco(
    output: Path,
    split: str,
    pictures: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]],
    *,
    description: str,
    licenses: list[dict[str, Any]],
    category: str,
) -> None:
    """Writes `split`.json of a set of one class, a kind of cell, and numbers images and annotations from 1.

    Args:
        output: the folder of the data set.
        split: one of SPLITS.
        pictures: for each image its entry and those of its annotations, without ids.
        description: the description of the data set.
        licenses: the licences of the data set.
        category: the name of the class.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, objects) in enumerate(pictures, start=1):
        images.append({"id": number, **image})
        for one in objects:
            head = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            annotations.append({**head, **one})
    content = {
        "info": {"description": description},
        "licenses": licenses,
        "categories": [{"id": 1, "name": category, "supercategory": "cell"}],
        "images": images,
        "annotations": annotations,
    }
    (output / f"{split}.json").write_text(json.dumps(content))
    print(f"{output / split}.json: {len(images)} images, {len(annotations)} annotations")


def known_checksums(name: str) -> dict[str, Any]:
    """The list that comes with the repository, `{split: {"images": {file name: sha256}, "masks": sha256}}`."""
    listed: dict[str, Any] = json.loads((Path(__file__).parent / "checksums" / f"{name}.json").read_text())
    return listed


def checksums(folder: Path) -> dict[str, Any]:
    """The list that `known_checksums` should hold for a prepared folder."""
    result = {}
    for split in SPLITS:
        data = json.loads((folder / f"{split}.json").read_text())
        images = {image["file_name"]: _pixels(folder / split / image["file_name"]) for image in data["images"]}
        result[split] = {"images": images, "masks": _masks(data)}
    return result


def _pixels(path: Path) -> str:
    return hashlib.sha256(Image.open(path).convert("RGB").tobytes()).hexdigest()


def _masks(data: dict[str, Any]) -> str:
    """One sha256 of all masks as run-length codes, whatever their form and order in the file."""
    images = {image["id"]: image for image in data["images"]}
    lines = []
    for annotation in data["annotations"]:
        image, segmentation = images[annotation["image_id"]], annotation["segmentation"]
        if isinstance(segmentation, list):
            parts = mask_util.frPyObjects(segmentation, image["height"], image["width"])
            counts = mask_util.merge(parts)["counts"].decode("ascii")
        else:
            counts = segmentation["counts"]
        lines.append(f"{image['file_name']} {annotation['category_id']} {counts}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def verify(folder: Path, listed: dict[str, Any]) -> None:
    """Compares a prepared folder with a list of checksums.

    Raises:
        UserError: images are missing, surplus or different, or masks differ; the files stay where they are.
    """
    found = checksums(folder)
    for split in SPLITS:
        ours, theirs = found[split]["images"], listed[split]["images"]
        if list(ours) != list(theirs):
            names = sorted(set(ours) ^ set(theirs)) or ["their order"]
            raise UserError(
                f"{folder / split}.json does not list the known images: {_some(names)}. Is the source whole?"
            )
        if found[split]["masks"] != listed[split]["masks"]:
            raise UserError(
                f"{folder / split}.json: the masks are not the known ones. Is the source the named version?"
            )
        differing = [name for name in ours if ours[name] != theirs[name]]
        if differing:
            raise UserError(
                f"{folder / split}: images that differ from the known ones: {_some(differing)}. Masks and names agree, so "
                "the set serves, with other figures than published ones in the last digits; other versions of Pillow or "
                "libjpeg can be the reason."
            )


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
