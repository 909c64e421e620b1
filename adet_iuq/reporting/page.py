"""The page itself: its content, and the template that lays it out. Names are escaped, there are no scripts, and nothing is
fetched: a browser opens it from the disk."""

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from adet_iuq.reporting.facts import Facts, config_value
from adet_iuq.reporting.label_grid import GRID_FILE
from adet_iuq.reporting.pictures import Comparison
from adet_iuq.reporting.tables import ConfusionTable, Table

_TEMPLATE = "page.html"


@dataclass
class SetPart:
    """The page's part about one test set.

    Attributes:
        name: the name of the set.
        tables: the tables of results.
        by_class: AP by class, if it is known.
        notes: what is missing, and why.
        what: "masks" or "boxes" if these were compared; empty if nothing was.
        images: the number of images.
        objects: the number of objects.
        threshold: the score threshold of confusion matrix and pictures.
        best: the threshold with the highest F1, and its results; empty if nothing was found.
        diagrams: title and SVG of each diagram.
        confusion: the confusion matrix.
        mistakes: the pairs of classes that were mistaken most often: object, detection, count.
        asked: the number of pictures if all had room.
        worst: the images with the worst results.
    """

    name: str
    tables: list[Table]
    by_class: Table | None
    notes: list[str] = field(default_factory=list)
    what: str = ""
    images: int = 0
    objects: int = 0
    threshold: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    diagrams: list[tuple[str, str]] = field(default_factory=list)
    confusion: ConfusionTable | None = None
    mistakes: list[tuple[str, str, int]] = field(default_factory=list)
    asked: int = 0
    worst: list[Comparison] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """The content of the page about a run.

    Attributes:
        name: the name of its folder.
        facts: config and environment.
        iterations: the number of finished iterations; 0 if it is not known.
        panels: title and SVG of each diagram of the training.
        parts: the parts about the test sets.
        label_grid: the data URL of the training images, or empty.
        missing: what the report lacks, and why.
    """

    name: str
    facts: Facts
    iterations: int
    panels: list[tuple[str, str]]
    parts: list[SetPart]
    label_grid: str
    missing: list[str]

    @property
    def planned(self) -> int:
        """The number of iterations of the whole run; 0 if it is not known."""
        return int(config_value(self.facts.values, "SOLVER.MAX_ITER", 0))


def render(page: Page) -> str:
    """The whole HTML text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = Markup  # for diagrams, in which matplotlib has already escaped all text
    now = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    return environment.get_template(_TEMPLATE).render(page=page, written=now, grid_file=GRID_FILE)
