"""A study's YAML file: which arms are compared, on which data sets, with which seeds.

    name: table3_shapes                # of the output folder
    title: "Table 3 on shapes"
    config: Base-shapes.yaml           # of all runs, relative to the study's file
    projects: [../..]                  # of all runs, train_net.py's --project: folders, relative to the study's file
    base: base                         # the arm that all others are compared with
    controls: [augmentation]           # further arms that all others are compared with
    seeds: [1, 2, 3]
    overrides: [KEY, VALUE, ...]       # of all runs
    datasets: {NAME: [KEY, VALUE, ...], ...}    # without any: those of the config
    arms: {NAME: [KEY, VALUE, ...], ...}        # order is kept
    metrics: [segm/AP, ...]            # see adet_iuq/studies/record.py for the names; * stands for anything
    keep_weights: false                # of finished runs
    quick: {seeds: [1, 2], arms: [...], datasets: [...], overrides: [KEY, VALUE, ...]}     # --quick, a part in minutes

`title`, `projects`, `controls`, `overrides`, `datasets`, `metrics`, `keep_weights` and `quick` may be left out. A key
that several levels set takes the value of the last one: overrides, then the data set's, the arm's, and those of `quick`.
"""

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adet_iuq.errors import UserError

REQUIRED = ("name", "config", "base", "seeds", "arms")
OPTIONAL = ("title", "projects", "controls", "overrides", "datasets", "metrics", "keep_weights", "quick")
QUICK = ("seeds", "arms", "datasets", "overrides")
DEFAULT_METRICS = (
    "segm/AP", "segm/AP@*", "segm/AP50", "segm/APs", "segm/APm", "segm/APl", "*_mosaic/segm/AP",
    "queries/fire_rate", "queries/similarity", "queries/own_similarity", "queries/equi_error", "queries/equi_feature_error",
    "queries/equi_iou", "*_mosaic/mosaic/leak_rate", "*_mosaic/mosaic/duplicate_rate", "train/iuq/fire_rate",
    "train/iuq/gradient_ratio", "train/iuq/gradient_cosine",
)  # fmt: skip
_RUNNERS_OWN = ("SEED", "OUTPUT_DIR")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes:
        dataset: the data set's name in the study; empty if the study names none.
        arm: the name of the arm.
        seed: the seed.
        overrides: KEY, VALUE, KEY, ... of study, data set, arm and `quick`, as words of a command line.
    """

    dataset: str
    arm: str
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the run's files."""
        return f"{self.dataset}.{self.arm}.seed{self.seed}".lstrip(".")


@dataclass(frozen=True)
class Study:
    """A study's file, checked.

    Attributes:
        path: the file.
        config: the config file of all runs.
        projects: the folders with code of all runs.
        overrides: the overrides of all runs that come before those of data sets and arms.
        last_overrides: the overrides of all runs that come after them.
        datasets: the data sets' overrides by name; a study that names no data set has one with an empty name.
        arms: the arms' overrides by name.
        The others are the file's keys.
    """

    path: Path
    name: str
    title: str
    config: Path
    base: str
    controls: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    datasets: Mapping[str, tuple[str, ...]]
    arms: Mapping[str, tuple[str, ...]]
    metrics: tuple[str, ...]
    keep_weights: bool
    projects: tuple[Path, ...] = ()
    last_overrides: tuple[str, ...] = ()

    def runs(self) -> list[Run]:
        """The runs in the order of their start, seed by seed, so that a study that is cut short has complete seeds."""
        return [
            Run(dataset, arm, seed, (*self.overrides, *shared, *own, *self.last_overrides))
            for seed in self.seeds
            for dataset, shared in self.datasets.items()
            for arm, own in self.arms.items()
        ]


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key that is given twice; yaml's own silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {', '.join(twice)} is given twice")
        return super().construct_mapping(node, deep)


def load_study(path: Path, quick: bool = False) -> Study:
    """Reads and checks a study's file.

    Args:
        path: the path of the file.
        quick: whether only the part is used that the key `quick` names.

    Raises:
        UserError: the file is missing or not YAML; a key is unknown, missing or of the wrong kind; an arm or a data set
            is named that does not exist; or `quick` is asked for and missing.
    """
    tree = _read(path)
    _check_keys(tree, REQUIRED, OPTIONAL, str(path))
    study = Study(
        path=path,
        name=_name(tree["name"], f"name in {path}"),
        title=str(tree.get("title", tree["name"])),
        config=path.parent / str(tree["config"]),
        base=str(tree["base"]),
        controls=_controls(tree.get("controls", []), f"controls in {path}"),
        seeds=_seeds(tree["seeds"], f"seeds in {path}"),
        overrides=_overrides(tree.get("overrides", []), f"overrides in {path}"),
        datasets=_named_overrides(tree["datasets"], f"datasets in {path}") if "datasets" in tree else {"": ()},
        arms=_named_overrides(tree["arms"], f"arms in {path}"),
        metrics=_metrics(tree.get("metrics", DEFAULT_METRICS), f"metrics in {path}"),
        keep_weights=_truth(tree.get("keep_weights", False), f"keep_weights in {path}"),
        projects=_projects(tree.get("projects", []), path),
    )
    if not study.config.is_file():
        raise UserError(f"config in {path}: {study.config} does not exist; the path is relative to the study's file.")
    _check_names([study.base], study.arms, f"base in {path}")
    if study.controls:
        _check_names(list(study.controls), study.arms, f"controls in {path}")
    shortened = (
        _quick(study, tree["quick"]) if "quick" in tree else None
    )  # a broken `quick` is an error even without --quick
    if not quick:
        return study
    if shortened is None:
        raise UserError(
            f"--quick: {path} has no key quick, such as quick: {{seeds: [1], overrides: [SOLVER.MAX_ITER, 20]}}."
        )
    return shortened


def _quick(study: Study, tree: Any) -> Study:
    place = f"quick in {study.path}"
    if not isinstance(tree, dict):
        raise UserError(f"{place} must be a mapping with some of {', '.join(QUICK)}.")
    _check_keys(tree, (), QUICK, place)
    arms, datasets = tree.get("arms", list(study.arms)), tree.get("datasets", list(study.datasets))
    _check_names(arms, study.arms, f"arms of {place}")
    _check_names(datasets, study.datasets, f"datasets of {place}")
    if study.base not in arms:
        raise UserError(f"arms of {place} leave out the base arm, {study.base}, with which all others are compared.")
    return dataclasses.replace(
        study,
        name=f"{study.name}_quick",
        title=f"{study.title} (quick)",
        seeds=_seeds(tree.get("seeds", list(study.seeds)), f"seeds of {place}"),
        controls=tuple(name for name in study.controls if name in arms),
        arms={name: words for name, words in study.arms.items() if name in arms},
        datasets={name: words for name, words in study.datasets.items() if name in datasets},
        last_overrides=_overrides(tree.get("overrides", []), f"overrides of {place}"),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise UserError(f"The study {path} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The study {path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"The study {path} must be a mapping with the keys {', '.join(REQUIRED)}.")
    return tree


def _check_keys(tree: dict[str, Any], required: Sequence[str], optional: Sequence[str], place: str) -> None:
    unknown = [str(key) for key in tree if key not in (*required, *optional)]
    missing = [key for key in required if key not in tree]
    if unknown:
        raise UserError(
            f"{place}: unknown key {', '.join(unknown)}. A study knows {', '.join((*required, *optional))}."
        )
    if missing:
        raise UserError(f"{place}: the key {', '.join(missing)} is missing.")


def _check_names(names: Any, known: Mapping[str, Any], place: str) -> None:
    if not isinstance(names, list) or not names:
        raise UserError(f"{place} must be a list of names.")
    for name in names:
        if name not in known:
            raise UserError(f"{place}: there is no {name}; there are {', '.join(known)}.")


def _name(value: Any, place: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UserError(
            f"{place}: {value!r} becomes the name of a file; use letters, digits, _, + and "
            "- only, and quotes for words that YAML takes for something else, such as on, off, yes, no and numbers."
        )
    return value


def _truth(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{place} must be true or false, not {value!r}.")
    return value


def _projects(value: Any, path: Path) -> tuple[Path, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError(f"projects in {path} must be a list of folders, such as [../../../projects/Minimal].")
    folders = tuple(path.parent / one for one in value)
    for folder in folders:
        if not (folder / "__init__.py").is_file():
            raise UserError(
                f"projects in {path}: {folder} is no folder with an __init__.py; it is relative to the study's file."
            )
    return folders


def _controls(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UserError(f"{place} must be a list of arms, such as [augmentation].")
    return tuple(map(str, value))


def _metrics(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) for one in value):
        raise UserError(f"{place} must be a list of names, such as [segm/AP, segm/AP50].")
    return tuple(value)


def _seeds(value: Any, place: str) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in value)
    if not whole or not value or len(set(value)) != len(value) or min(value) < 0:
        raise UserError(f"{place} must be a list of different whole numbers from 0 on, such as [1, 2, 3].")
    return tuple(value)


def _named_overrides(value: Any, place: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{place} must map names to lists of overrides, such as base: [KEY, VALUE].")
    return {_name(name, place): _overrides(words, f"{name} of {place}") for name, words in value.items()}


def _overrides(value: Any, place: str) -> tuple[str, ...]:
    """The words that train_net.py takes; a list is written in Python's notation."""
    if not isinstance(value, list) or len(value) % 2:
        raise UserError(f"{place} must be a list of pairs, [KEY, VALUE, KEY, VALUE, ...], or empty, [].")
    for key in value[::2]:
        if not isinstance(key, str) or key != key.upper():
            raise UserError(f"{place}: {key!r} stands where the name of a config key should.")
        if key in _RUNNERS_OWN:
            raise UserError(f"{place}: {key} is set by the runner.")
    return tuple(str(word) for word in value)
