"""The kinds of rendered scenes that DATASETS.SHAPES.PRESET chooses from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode

from adet_iuq.data.shapes.crowd import CROWD_CLASSES, render_crowd
from adet_iuq.data.shapes.render import CLASSES, Scene, render_scene
from adet_iuq.errors import UserError


@dataclass(frozen=True)
class Preset:
    """The names of the classes, which a figure's label counts, and the function that draws a scene of a given size."""

    classes: tuple[str, ...]
    render: Callable[[int, np.random.Generator], Scene]


DEFAULT = "mixed"
PRESETS = {DEFAULT: Preset(CLASSES, render_scene), "crowded": Preset(CROWD_CLASSES, render_crowd)}


def preset_of(cfg: CfgNode) -> Preset:
    """The preset that the config names.

    Raises:
        UserError: there is no preset of that name.
    """
    name = cfg.DATASETS.SHAPES.PRESET
    if name not in PRESETS:
        raise UserError(f"DATASETS.SHAPES.PRESET is '{name}'; there are {' and '.join(PRESETS)}.")
    return PRESETS[name]
