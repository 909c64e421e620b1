"""Everything that the page shows: models, pictures, masks, and the maps of the query of a clicked instance."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from detectron2.structures import Instances
from PIL import UnidentifiedImageError

from adet_iuq.errors import UserError
from adet_iuq.visualization import draw, of_predictions
from adet_iuq.visualization.query_maps import (
    PixelGrid,
    QueryMaps,
    as_truth,
    detect,
    num_sharing,
    pixel_grid,
    query_maps,
)
from adet_iuq.visualization.query_models import Picture, QueryModel
from adet_iuq.visualization.query_picture import Row, draw_queries

Image = npt.NDArray[np.uint8]

NUM_OTHERS = 4  # number of other pictures that a query is applied to
_LEAST_SIDE = 480  # pixels; smaller pictures are enlarged by a whole factor, so that instances can be clicked


@dataclass(frozen=True)
class Entry:
    """A picture that can be chosen: a file and its name."""

    path: Path
    name: str


@dataclass(frozen=True)
class Shown:
    """What one visitor sees.

    Attributes:
        entry: the picture.
        chosen: the files of weights by the names of the models, `base` before `IUQ`.
        found: the detections of each model, the most certain first.
    """

    entry: Entry
    chosen: dict[str, str]
    found: dict[str, Instances]


@dataclass(frozen=True)
class Answer:
    """The answer to a click on an instance.

    Attributes:
        pictures: (H, W, 3) RGB, by the name of the model, for the models that have a query for the instance.
        texts: a sentence for every model, by its name.
    """

    pictures: dict[str, Image]
    texts: dict[str, str]


class Viewer:
    """Provides everything that the page asks for. It serves one visitor at a time, as it switches models to evaluation.

    Args:
        load: the function that makes a model from its name and a file of weights; a few models are kept.
    """

    def __init__(self, load: Callable[[str, str], QueryModel]) -> None:
        self._lock = threading.Lock()
        self._model = lru_cache(maxsize=4)(load)
        self._read = lru_cache(maxsize=32)(_read)
        self._grid = lru_cache(maxsize=2 * NUM_OTHERS)(self._pixel_grid)

    def read(self, chosen: Mapping[str, str], entry: Entry) -> Picture:
        """The picture as the chosen models' networks see it.

        Raises:
            UserError: the file is no image or cannot be read; the message contains the picture's name.
        """
        return self._read(self.models(chosen)[0], entry)

    def detect(self, chosen: Mapping[str, str], entry: Entry, threshold: float) -> Shown:
        """Finds the instances with every chosen model.

        Raises:
            UserError: the picture or the weights cannot be read.
        """
        picture = self.read(chosen, entry)
        with self._lock:
            found = {model.name: detect(model.model, picture.image, threshold) for model in self.models(chosen)}
        return Shown(entry, dict(chosen), found)

    def masks(self, shown: Shown) -> dict[str, Image]:
        """The picture with the masks of each model, RGB, small ones enlarged."""
        picture = self.read(shown.chosen, shown.entry)
        factor = _factor(picture)
        drawn = {}
        for model in self.models(shown.chosen):
            drawing = of_predictions(shown.found[model.name], model.class_names, 0.0)
            enlarged = np.ascontiguousarray(picture.rgb[:, :, ::-1]).repeat(factor, 0).repeat(factor, 1)
            drawing.boxes = drawing.boxes * factor
            if drawing.masks is not None:
                drawing.masks = np.asarray(drawing.masks, dtype=np.bool_).repeat(factor, 1).repeat(factor, 2)
            drawn[model.name] = np.ascontiguousarray(draw(enlarged, drawing)[:, :, ::-1])
        return drawn

    def instance_at(self, shown: Shown, name: str, place: tuple[int, int]) -> int | None:
        """The smallest instance of a model at a place, x and y in pixels of the picture of `masks`; None: there is none."""
        factor = _factor(self.read(shown.chosen, shown.entry))
        masks = shown.found[name].pred_masks
        x, y = (min(place[axis] // factor, masks.shape[2 - axis] - 1) for axis in (0, 1))
        covering = masks[:, y, x].nonzero().flatten()
        areas = masks[covering].flatten(1).sum(1)
        return int(covering[areas.argmin()]) if len(covering) else None

    def ask(self, shown: Shown, name: str, instance: int, others: Sequence[Entry]) -> Answer:
        """The maps of the query that each model assigns to an instance that the model `name` found.

        Args:
            shown: what the visitor sees.
            name: the name of the model.
            instance: the number of its detection.
            others: the other pictures.

        Raises:
            UserError: a picture cannot be read.
        """
        models = self.models(shown.chosen)
        picture = self._read(models[0], shown.entry)
        gallery = [self._read(models[0], entry) for entry in others]
        clicked = shown.found[name]
        mask = clicked.pred_masks[instance].numpy()
        label = of_predictions(clicked[[instance]], models[0].class_names, 0.0).labels[0]
        answer = Answer({}, {})
        for model in models:
            try:
                with self._lock:
                    grids = [self._grid(model, entry) for entry in others]
                    maps = query_maps(model.model, picture.image, as_truth(clicked), instance, grids)
            except UserError as error:
                answer.texts[model.name] = str(error)
                continue
            row = Row(model.name, maps, num_sharing(shown.found[model.name], clicked.pred_masks[instance]))
            answer.pictures[model.name] = draw_queries(picture, mask, label, gallery, [row])
            answer.texts[model.name] = in_words(maps, 100 * float(mask.mean()), row.num_sharing)
        return answer

    def models(self, chosen: Mapping[str, str]) -> list[QueryModel]:
        """The chosen models, which are loaded unless they are in memory.

        Raises:
            UserError: a model cannot be loaded.
        """
        return [self._model(name, weights) for name, weights in chosen.items() if weights]

    def _pixel_grid(self, model: QueryModel, entry: Entry) -> PixelGrid:
        return pixel_grid(model.model, self._read(model, entry).image)


def in_words(maps: QueryMaps, area: float, num_sharing: int) -> str:
    """A sentence that describes the maps.

    Args:
        maps: the maps of the query.
        area: the area of the instance, in percent of its image.
        num_sharing: the number of other detections with its mask.
    """
    own = f"fires on {maps.own.fire_rate:.1f} % of its own picture (the instance covers {area:.1f} %)"
    rates = [heat.fire_rate for heat in maps.others]
    others = f" and on {np.mean(rates):.1f} % of {len(rates)} other pictures" if rates else ""
    return f"{own}{others}; other detections with its mask: {num_sharing}"


def _read(model: QueryModel, entry: Entry) -> Picture:
    """Reads a picture like `QueryModel.read`, with errors for somebody who dropped a file."""
    try:
        return model.read(entry.path, entry.name)
    except UserError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise UserError(
                f"{entry.name} is no picture: its content is in no image format that can be read."
            ) from error
        raise UserError(str(error).replace(str(entry.path), entry.name)) from error


def _factor(picture: Picture) -> int:
    return max(1, -(-_LEAST_SIDE // min(picture.rgb.shape[:2])))
