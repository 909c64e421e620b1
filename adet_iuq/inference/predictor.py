"""`Predictor` turns any kind of images into supervision's detections.

    from adet_iuq import Predictor
    predictor = Predictor("output/quickstart")
    detections = predictor("photo.jpg")                # supervision.Detections
    found = predictor(["a.jpg", array], batch_size=4)  # a list of them
    many = predictor("aerial.tif", tile=(640, 640))

docs/predicting.md describes it fully.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import supervision as sv

from adet_iuq.config import import_projects
from adet_iuq.errors import UserError
from adet_iuq.inference.config import AUTO, find_config, inference_config
from adet_iuq.inference.images import Picture, Pixels, find_files, pixels_of
from adet_iuq.inference.instances import InstancePredictor
from adet_iuq.inference.merging import merged
from adet_iuq.inference.parts import Part, Size, Window, detections_of, parts_of
from adet_iuq.inference.tiles import Tiling

_LOOK_AHEAD = 4  # number of batches that are read ahead, to find images of one size among those of other sizes


class Predictor:
    """A trained model that accepts paths, arrays, Pillow's pictures, lists of these, folders and patterns.

    Attributes:
        inner: the predictor that turns pixels into detectron2's Instances; it holds the model.
        class_names: the names of the classes in the order of `class_id`.
        category_ids: the training set's own number of each class, if it has any.
        score_threshold: the lowest score of the detections that are kept.
    """

    def __init__(
        self,
        config_or_name: str | os.PathLike[str],
        weights: str | os.PathLike[str] = "",
        *,
        device: str = AUTO,
        half: bool = False,
        opts: Sequence[str] = (),
        projects: Sequence[str] = (),
        score_threshold: float = 0.3,
    ) -> None:
        """
        Args:
            config_or_name: a YAML file, the name of a recipe such as "CondInst/R50_1x_iuq.yaml", or the folder of a
                finished run, which has its own weights.
            weights: the path of a checkpoint.
            device: a device by torch's name; "auto": CUDA if there is one, else the CPU.
            half: whether it computes in bfloat16, or in float16 on GPUs
                without it. A CPU without it warns and computes in float32.
            opts: overrides of the config, KEY and VALUE in turn.
            projects: folders or modules with segmenters of your own.
            score_threshold: the lowest score of the detections that are kept; 0 keeps all.

        Raises:
            UserError: the config, the weights, a project or the device is not usable.
        """
        config, found = find_config(os.fspath(config_or_name), os.fspath(weights))
        cfg = inference_config(config, found, [str(word) for word in opts], import_projects(projects), device)
        self.inner = InstancePredictor(cfg, half)
        self.class_names: list[str] = self.inner.metadata["thing_classes"]
        self.category_ids: dict[int, int] = self.inner.metadata["category_ids"]
        self.score_threshold = score_threshold

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        *,
        order: str = "BGR",
        batch_size: int = 1,
        tile: Size | None = None,
        overlap: float = 0.2,
        whole: bool = True,
        compact: bool = False,
    ) -> sv.Detections | list[sv.Detections]:
        """The detections of one image, or a list of them, in order, for a list, a folder or a pattern.

        Args:
            images: a path, an array (H, W, 3) uint8, or a picture of Pillow's; a list of these; a folder or a pattern.
            order: the order of arrays' channels: "BGR", as in OpenCV, or "RGB".
            batch_size: the number of images (or tiles) in one forward pass; they must have one size at the network.
            tile: (height, width) in pixels. If given, the image is cut into tiles, and each is enlarged like a whole image.
            overlap: the overlap of neighbouring tiles, as a share; objects up to this size are seen whole.
            whole: whether, besides the tiles, the image as a whole is used, for larger objects.
            compact: whether masks are supervision's CompactMask, some kilobytes each, instead of one array (N, H, W) bool.

        Raises:
            UserError: an image cannot be read, or the value of an argument is not possible.
        """
        tiling = None if tile is None else Tiling((tile[0], tile[1]), overlap, whole)
        one = isinstance(images, str) or not isinstance(images, Sequence)
        pictures: list[Picture] = [images] if one else list(images)  # type: ignore[list-item, arg-type]
        if one and isinstance(images, (str, os.PathLike)):
            pictures = list(find_files([images]))
            one = pictures == [Path(images).expanduser()]
        pixels = (pixels_of(picture, order, self.inner.deep_images) for picture in pictures)
        found = self.stream(pixels, batch_size=batch_size, tiling=tiling)
        results = [detections if compact else dense(detections) for detections in found]
        return results[0] if one else results

    def stream(
        self, images: Iterable[Pixels], *, batch_size: int = 1, tiling: Tiling | None = None
    ) -> Iterator[sv.Detections]:
        """The detections of one image after the other, with masks as CompactMask; for videos and long lists.

        Args:
            images: (H, W, 3) uint8 each, BGR.
            batch_size: the number of images in one forward pass.
            tiling: how images are cut into tiles; None: they are not.

        Raises:
            UserError: the batch size is below 1.
        """
        if batch_size < 1:
            raise UserError(f"A batch of {batch_size} images: give 1 or more.")
        remaining = iter(images)
        ahead = 1 if batch_size == 1 or tiling is not None else _LOOK_AHEAD * batch_size
        while pixels := list(islice(remaining, ahead)):
            if tiling is not None:
                yield self._tiled(pixels[0], tiling, batch_size)
                continue
            for image, instances in zip(pixels, self.inner.encoded(pixels, batch_size), strict=True):
                size = (image.shape[0], image.shape[1])
                parts = parts_of(instances, _all_of(size), size, self.score_threshold)
                yield detections_of(parts, size, self.class_names)

    def _tiled(self, image: Pixels, tiling: Tiling, batch_size: int) -> sv.Detections:
        size = (image.shape[0], image.shape[1])
        windows = tiling.windows(size)
        parts: list[Part] = []
        for start in range(0, len(windows), batch_size):
            chosen = windows[start : start + batch_size]
            tiles = [image[y0:y1, x0:x1] for x0, y0, x1, y1 in chosen]
            for window, instances in zip(chosen, self.inner.encoded(tiles, batch_size), strict=True):
                parts += parts_of(instances, window, size, self.score_threshold, tiling.margin)
        if tiling.whole and len(windows) > 1:
            (instances,) = self.inner.encoded([image])
            found = parts_of(instances, _all_of(size), size, self.score_threshold)
            parts += [part for part in found if tiling.is_large(part, size)]
        return detections_of(merged(parts), size, self.class_names)


def dense(detections: sv.Detections) -> sv.Detections:
    """The same detections with masks as one array (N, H, W) bool."""
    if not isinstance(detections.mask, sv.CompactMask):
        return detections
    return replace(detections, mask=detections.mask.to_dense())


def _all_of(size: Size) -> Window:
    return 0, 0, size[1], size[0]
