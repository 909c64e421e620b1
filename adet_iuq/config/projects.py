"""Projects: code outside this package, named by `--project`, with segmenters, mappers, evaluators and config keys.

What a project must be: a folder with an `__init__.py`, or a Python module that can be imported. Importing it registers its
segmenters in detectron2's META_ARCH_REGISTRY, its backbones in BACKBONE_REGISTRY, its mappers and samplers in
MAPPER_REGISTRY and SAMPLER_REGISTRY of `adet_iuq.data`, and its evaluators in EVALUATOR_REGISTRY of `adet_iuq.evaluation`.
If it has config keys, a function of that module adds them before YAML files and overrides are merged:

    def add_config(cfg: CfgNode) -> None:
        cfg.MODEL.MINIMAL = CfgNode()
        cfg.MODEL.MINIMAL.NUM_CLASSES = 80  # keys of this name get the data sets' number of classes

The files of a folder import each other relatively (`from .model import Minimal`), because the folder need not be on
Python's path. Every process of a run imports the projects of its command line again.
"""

import argparse
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from adet_iuq.config.defaults import AddConfig
from adet_iuq.config.lookup import packaged_project
from adet_iuq.errors import UserError


def add_project_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--project`; the parsed `project` is a list for `import_projects`."""
    parser.add_argument(
        "--project",
        action="append",
        default=[],
        metavar="FOLDER_OR_MODULE",
        help="import this project first: its segmenters, mappers, evaluators and config keys are then known; repeatable",
    )


def import_projects(places: Sequence[str]) -> tuple[AddConfig, ...]:
    """Imports projects; returns their functions `add_config`, for `load_config`.

    Args:
        places: folders or dotted names of modules.

    Raises:
        UserError: `import_project` fails, or an `add_config` is no function.
    """
    modules = dict.fromkeys(import_project(place) for place in places)
    found = {place.__name__: vars(place)["add_config"] for place in modules if "add_config" in vars(place)}
    for name, function in found.items():
        if not callable(function):
            raise UserError(f"--project {name}: its add_config is {function!r}; it must be a function f(cfg).")
    return tuple(found.values())


def import_project(place: str) -> ModuleType:
    """Imports a project, unless that has already happened under any name.

    Args:
        place: a folder, the name "projects/NAME" of one that comes with the package, or the dotted name of a module.

    Raises:
        UserError: there is no such folder or module, the folder has no `__init__.py`, or the import fails.
    """  # noqa: DOC501  `_import_error` makes a UserError
    path = Path(place).expanduser()
    if not path.exists():
        path = packaged_project(place) or path
    if path.is_dir():
        return _import_folder(path.resolve(), place)
    if path.exists():
        raise UserError(f"--project {place} is a file; name its folder, which must hold an __init__.py.")
    if re.fullmatch(r"\w+(\.\w+)*", place) is None:
        raise UserError(f"--project {place}: there is no such folder; the working folder is {os.getcwd()}.")
    try:
        return importlib.import_module(place)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise UserError(
                f"--project {place}: there is neither such a folder (the working folder is {os.getcwd()}) nor a Python "
                f"module {error.name} on Python's path."
            ) from error
        raise _import_error(place, error, None) from error


def _import_folder(folder: Path, place: str) -> ModuleType:
    file = folder / "__init__.py"
    if not file.is_file():
        raise UserError(f"--project {place} is no project: the folder has no __init__.py.")
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and _is_module_of(file, vars(module).get("__file__")):
            return module
    # Two folders may have the same name, and neither may hide a module of that name.
    name = re.sub(r"\W", "_", f"project_{folder.name}_") + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, because its own files import it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise _import_error(place, error, folder) from error
    return module


def _is_module_of(file: Path, other: object) -> bool:
    same_name = isinstance(other, str) and other.endswith(os.sep + file.name)
    return same_name and os.path.realpath(str(other)) == str(file)


def _import_error(place: str, error: Exception, folder: Path | None) -> UserError:
    where = _where(error, folder)
    return UserError(f"--project {place} cannot be imported: {type(error).__name__}: {error} ({where})")


def _where(error: Exception, folder: Path | None) -> str:
    """File and line of an error: the innermost place in the project's own code if there is one."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if folder is not None and frame.filename.startswith(f"{folder}{os.sep}")]
    last = (own or frames)[-1]
    return f"{last.filename}, line {last.lineno}"
