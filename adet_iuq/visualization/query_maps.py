"""Computes where the query of one instance fires: on its own image, and on other images (Eq. 5 in pictures).

A query that is unique to its instance fires on that instance, and nowhere in other images. This works on any `IUQMetaArch`
through its public methods: the segmenter's own assignment names the query (`forward_scene`), `retrieve_map` applies it to
its own image, and `retrieve` applies it to others. All models are run within `undisturbed`.

Images are (3, h, w) in INPUT.FORMAT at the network's input size; Hf, Wf as in `adet_iuq.iuq.structures`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from adet_iuq.data.seeding import seeded
from adet_iuq.errors import UserError
from adet_iuq.evaluation.mosaic import SHARED
from adet_iuq.evaluation.queries import undisturbed
from adet_iuq.iuq import Pixels, Queries, Scene, valid_cells
from adet_iuq.modeling import IUQMetaArch
from adet_iuq.modeling.layers import mask_boxes

FIRES = 0.5  # lowest probability at which a query fires on a pixel; masks are cut at the same value


@dataclass(frozen=True)
class HeatMap:
    """One query on one image.

    Attributes:
        probabilities: (rows, columns) float32, of the cells whose supervised pixel lies in the image, not in its padding.
        stride: cell (i, j) is supervised by the input pixel (stride * i + offset, stride * j + offset).
        offset: the position of the pixel that supervises cell 0.
    """

    probabilities: npt.NDArray[np.float32]
    stride: int
    offset: float

    @property
    def fire_rate(self) -> float:
        """The share of cells that the query fires on, in percent; 0 if the image is too small to have a cell."""
        return 100 * float((self.probabilities > FIRES).mean()) if self.probabilities.size else 0.0

    def at_pixels(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The probabilities at the (height, width) pixels of the image, interpolated between cells, constant at the rim."""
        if not self.probabilities.size:
            return np.zeros(size, dtype=np.float32)
        rows, columns = (
            ((np.arange(length, dtype=np.float32) - self.offset) / self.stride).clip(0, cells - 1)
            for length, cells in zip(size, self.probabilities.shape, strict=True)
        )
        x, y = np.meshgrid(columns, rows)
        return np.asarray(cv2.remap(self.probabilities, x, y, cv2.INTER_LINEAR), dtype=np.float32)


@dataclass(frozen=True)
class PixelGrid:
    """The dense map of an image, to which queries of other images are applied: its cells without padding, row by row.

    Attributes:
        pixels: (rows * columns, ...), without context.
        rows: the number of rows of cells.
        columns: the number of columns of cells.
    """

    pixels: Pixels
    rows: int
    columns: int


@dataclass(frozen=True)
class QueryMaps:
    """The places that the query of one instance finds.

    Attributes:
        own: the map on the instance's own image.
        others: the maps on the other images.
        num_queries: the number of queries that the segmenter assigns to the instance. The maps are those of the query
            with the highest mean probability inside the mask.
    """

    own: HeatMap
    others: list[HeatMap]
    num_queries: int


def pixel_grid(model: IUQMetaArch, image: Tensor) -> PixelGrid:
    """The dense map of an image, on the model's device."""
    scene = _scene(model, image, empty_truth(image))
    rows, columns = _grid_size(scene)
    cells = torch.arange(rows, device=model.device)[:, None] * scene.features.shape[3] + torch.arange(
        columns, device=model.device
    )
    flat = cells.flatten()
    pixels = Pixels(
        features=scene.features[0].flatten(1)[:, flat].t(),
        locations=scene.cell_locations(flat),
        image_ids=scene.image_ids.expand(len(flat)),
    )
    return PixelGrid(pixels, rows, columns)


def query_maps(
    model: IUQMetaArch, image: Tensor, truth: Instances, instance: int, others: Sequence[PixelGrid]
) -> QueryMaps:
    """The maps of the query of one instance.

    Args:
        model: the model, which need not be in evaluation mode.
        image: the image of the instance.
        truth: the annotations of all its instances (they compete for queries), at the size of `image`, as in training:
            `gt_boxes`, `gt_classes`, `gt_masks`.
        instance: the row of the instance in `truth`.
        others: the `pixel_grid` of other images, computed by this model.

    Raises:
        UserError: the segmenter assigns no query to the instance, as it may be too small.
    """
    scene = _scene(model, image, truth)
    if not bool((scene.queries.target_index == instance).any()):
        # A smaller instance on the same spot took all queries. If the instance is alone, it gets its own.
        scene, instance = _scene(model, image, truth[[instance]]), 0
    matched = (scene.queries.target_index == instance).nonzero().squeeze(1)
    if not len(matched):
        raise UserError(
            "The segmenter assigns no query to this instance (it may be too small, or hidden). Choose another one."
        )
    with undisturbed(model):
        query, own = _best(model, scene, scene.queries.select(matched), instance)
        context = {name: values[0][[instance]] for name, values in scene.instance_context.items()}
        asked = [_ask(model, query, grid, context) for grid in others]
    return QueryMaps(own, asked, len(matched))


def detect(model: IUQMetaArch, image: Tensor, threshold: float) -> Instances:
    """The model's detections with a score of at least `threshold`, at the size of `image`, the most certain first.

    They are on the CPU, with `pred_boxes`, `pred_classes`, `scores` and `pred_masks` (bool), without empty masks.
    """
    with undisturbed(model):
        found = model([{"image": image}])[0]["instances"].to("cpu")
    found.pred_masks = found.pred_masks.bool()
    kept = (found.scores >= threshold) & found.pred_masks.flatten(1).any(1)
    found = found[kept]
    return found[found.scores.argsort(descending=True, stable=True)]


def as_truth(found: Instances) -> Instances:
    """Detections in the form of annotations, with boxes around the masks, for the segmenter's assignment."""
    truth = Instances(found.image_size)
    truth.gt_classes, truth.gt_masks = found.pred_classes, BitMasks(found.pred_masks)
    truth.gt_boxes = Boxes(mask_boxes(found.pred_masks))
    return truth


def empty_truth(image: Tensor) -> Instances:
    """The annotations of an image without instances."""
    height, width = image.shape[1:]
    truth = Instances((height, width))
    truth.gt_classes = torch.zeros(0, dtype=torch.long)
    truth.gt_masks = BitMasks(torch.zeros(0, height, width, dtype=torch.bool))
    truth.gt_boxes = Boxes(torch.zeros(0, 4))
    return truth


def num_sharing(found: Instances, mask: Tensor) -> int:
    """The number of detections beyond the first that have this mask (h, w) bool, which only one of them should have.

    A detector without duplicates gives 0. The mask may be that of a detection or of an annotation.
    """
    union = (found.pred_masks | mask).flatten(1).sum(1)
    shared = (found.pred_masks & mask).flatten(1).sum(1) > SHARED * union
    return max(int(shared.sum()) - 1, 0)


def _scene(model: IUQMetaArch, image: Tensor, truth: Instances) -> Scene:
    """The scene of one image. A segmenter that draws queries at random draws the same ones each time."""
    inputs = {"image": image.to(model.device), "instances": truth.to(model.device)}
    with undisturbed(model), seeded(0):
        scene, _ = model.forward_scene([{**inputs, "image_id": 0, "sample_index": 0, "sample_seed": 0}])
    return scene


def _grid_size(scene: Scene) -> tuple[int, int]:
    """Rows and columns of the cells whose supervised pixel lies in the image, for a scene of one image."""
    rows, columns = (
        valid_cells(scene.image_sizes[0][axis], scene.features.shape[2 + axis], scene.stride, scene.offset)
        for axis in (0, 1)
    )
    return rows, columns


def _best(model: IUQMetaArch, scene: Scene, queries: Queries, instance: int) -> tuple[Queries, HeatMap]:
    """The query of an instance with the highest mean probability inside its mask, and the map of that query.

    If the mask holds no cell, the mean is taken over the image.
    """
    rows, columns = _grid_size(scene)
    maps = model.retrieve_map(queries, scene.features).float().sigmoid()[:, :rows, :columns]
    size = (scene.features.shape[2], scene.features.shape[3])
    inside = model.mask_cells(scene.masks[0][[instance]], size)[0, :rows, :columns]
    if not bool(inside.any()):
        inside = torch.ones_like(inside)
    best = int(maps[:, inside].mean(1).argmax())
    return queries.select(slice(best, best + 1)), HeatMap(maps[best].cpu().numpy(), scene.stride, scene.offset)


def _ask(model: IUQMetaArch, query: Queries, grid: PixelGrid, context: dict[str, Tensor]) -> HeatMap:
    """The map of one query on another image.

    Args:
        model: the model, within `undisturbed`.
        query: a single query.
        grid: the dense map of the other image.
        context: (1, ...), the context of the query's instance. A segmenter that reads a pixel's position relative to
            the pixel's instance reads all these pixels as if they belonged to this instance; most belong to none.
    """
    spread = {name: value.expand(len(grid.pixels), *value.shape[1:]) for name, value in context.items()}
    logits = model.retrieve(query, replace(grid.pixels, context=spread)).float()
    probabilities = logits.sigmoid().reshape(grid.rows, grid.columns)
    return HeatMap(probabilities.cpu().numpy(), model.pixel_stride, model.pixel_offset)
