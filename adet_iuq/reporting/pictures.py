"""The pictures of a report: images with ground truth beside predictions, coloured by what was found and what was not."""

import base64
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util

from adet_iuq.data.annotations.image_entries import relative_path
from adet_iuq.data.images.reading import read_image
from adet_iuq.errors import UserError
from adet_iuq.reporting.matching import Matches
from adet_iuq.reporting.scores import ImageScores
from adet_iuq.visualization import Drawing, draw

RIGHT, WRONG, PASSED_OVER = "#009e73", "#d55e00", "#999999"
_LONG_SIDE = 480  # pixels of a picture; smaller images are drawn in their own size or a multiple of it
_QUALITY = 80  # of the JPEG files

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """An image with its ground truth beside its predictions.

    Attributes:
        name: the path of the image file below the folder of images.
        f1: the F1 score of the image.
        right: the number of right detections.
        wrong: the number of wrong detections.
        missed: the number of missed objects.
        pictures: data URLs by title; empty if the image cannot be read.
        problem: why it cannot be read, or empty.
    """

    name: str
    f1: float
    right: int
    wrong: int
    missed: int
    pictures: dict[str, str]
    problem: str = ""


def worst_images(
    matches: Matches,
    scores: ImageScores,
    threshold: float,
    image_root: str,
    *,
    deep_images: str,
    most: int,
    most_bytes: int,
) -> list[Comparison]:
    """The images with the worst results, worst first.

    Args:
        matches: the matches of the data set.
        scores: the scores of its images.
        threshold: the lowest score of detections that are drawn.
        image_root: the folder of the images.
        deep_images: INPUT.DEEP_IMAGES.
        most: the largest number of images.
        most_bytes: the largest number of bytes of all data URLs together; images beyond it are left out.
    """
    result: list[Comparison] = []
    for place in scores.worst(most):
        one = _comparison(matches, scores, threshold, place, image_root, deep_images)
        most_bytes -= sum(map(len, one.pictures.values()))
        if most_bytes < 0:
            break
        result.append(one)
    return result


def data_url(image: Image, quality: int = _QUALITY) -> str:
    """An image (H, W, 3) BGR as a JPEG within a URL."""
    return jpeg_url(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def jpeg_url(content: bytes) -> str:
    """A JPEG file's bytes within a URL."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def shrunk(image: Image, long_side: int) -> Image:
    """The image, shrunk if its longer side is longer than that."""
    factor = min(1.0, long_side / max(image.shape[:2]))
    size = [max(1, round(side * factor)) for side in (image.shape[1], image.shape[0])]
    return image if factor == 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def shrunk_mask(mask: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask (0 and 1) at another (height, width): the pixels of which it covers at least a half."""
    if mask.shape == size:
        return mask.astype(bool)
    return np.asarray(cv2.resize(mask * np.uint8(255), size[::-1], interpolation=cv2.INTER_AREA) >= 128)


def _comparison(
    matches: Matches, scores: ImageScores, threshold: float, place: int, image_root: str, deep_images: str
) -> Comparison:
    entry = matches.images[place]
    result = Comparison(
        name=relative_path(entry),
        f1=float(scores.f1[place]),
        right=int(scores.right[place]),
        wrong=int(scores.wrong[place]),
        missed=int(scores.missed[place]),
        pictures={},
    )
    try:
        claimed = (entry["height"], entry["width"])
        image = read_image(Path(image_root) / result.name, "BGR", claimed_size=claimed, deep_images=deep_images)
    except UserError as error:
        return dataclasses.replace(result, problem=str(error))
    size, small = image.shape[:2], shrunk(image, _LONG_SIDE)
    truth = _truth(matches, place, threshold, size, small.shape[:2])
    found = _found(matches, place, threshold, size, small.shape[:2])
    pictures = {
        f"ground truth ({len(truth.labels)})": data_url(draw(small, truth)),
        f"predictions ({len(found.labels)})": data_url(draw(small, found)),
    }
    return dataclasses.replace(result, pictures=pictures)


def _truth(matches: Matches, place: int, threshold: float, size: tuple[int, ...], small: tuple[int, ...]) -> Drawing:
    """The objects of an image. Those that a detection above the threshold found have one colour, the others another."""
    objects = np.flatnonzero(matches.object_image == place)
    by = matches.found_by[objects]
    found = (by >= 0) & (matches.scores[by] >= threshold) if len(matches.scores) else np.zeros(len(by), dtype=bool)
    colours = [
        PASSED_OVER if not matches.object_counted[one] else RIGHT if yes else WRONG
        for one, yes in zip(objects, found, strict=True)
    ]
    labels = [matches.names[matches.object_category[one]] for one in objects]
    return _drawing((matches.object_shapes[one] for one in objects), labels, colours, size, small)


def _found(matches: Matches, place: int, threshold: float, size: tuple[int, ...], small: tuple[int, ...]) -> Drawing:
    """The detections of an image above the threshold; the right ones have one colour, the wrong ones another."""
    detections = np.flatnonzero((matches.image == place) & (matches.scores >= threshold))
    colours = [
        PASSED_OVER if not matches.counted[one] else RIGHT if matches.match[one] >= 0 else WRONG for one in detections
    ]
    labels = [f"{matches.names[matches.category[one]]} {matches.scores[one]:.0%}" for one in detections]
    return _drawing((matches.shapes[one] for one in detections), labels, colours, size, small)


def _drawing(
    shapes: Iterable[Any], labels: list[str], colours: list[str], size: tuple[int, ...], small: tuple[int, ...]
) -> Drawing:
    """Shapes of an image of `size` (height, width) for a picture of the size `small`; masks are decoded one by one."""
    boxes, masks = [], []
    for shape in shapes:
        if isinstance(shape, dict):
            masks.append(shrunk_mask(mask_util.decode(shape), (small[0], small[1])))
            shape = mask_util.toBbox(shape)
        x, y, width, height = shape
        across, down = small[1] / size[1], small[0] / size[0]
        boxes.append([x * across, y * down, (x + width) * across, (y + height) * down])
    return Drawing(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        masks=np.stack(masks) if masks else None,
        classes=np.zeros(len(boxes), dtype=np.int64),
        labels=labels,
        colours=colours,
    )
