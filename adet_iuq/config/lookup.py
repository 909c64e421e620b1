"""Finds a config file: by its path or, if there is none, by its name among the files in the package.

A checkout has the folders `configs` and `projects` beside the package, and an installed package has them inside.
Both trees have the same shape, so a `_BASE_` that leads from a project to `configs` finds its file in either.
"""

import difflib
import os
from pathlib import Path

import adet_iuq
from adet_iuq.errors import UserError


def find_recipe(name: str) -> str:
    """The path of a config file. Every command and tool finds its config here, except studies.

    The config of a study is named relative to the study's file.

    Args:
        name: a path, which goes first if it exists, or the name of a packaged file; see `packaged_recipe`. An address such
            as "https://..." is left as it is.

    Raises:
        UserError: it is neither; the message lists the packaged names that come close.
    """
    path = os.path.expanduser(name)
    if os.path.isfile(path) or "://" in name:
        return path
    packaged = packaged_recipe(name)
    if packaged is not None:
        return str(packaged)
    raise UserError(
        f"Config file {name} does not exist; the working folder is {os.getcwd()}. No config that comes with the package has "
        f"this name either.{near_recipes(name)}"
    )


def near_recipes(name: str) -> str:
    """A sentence, after a blank, with the packaged names that come close to `name`; empty without any."""
    known = _recipes()
    same_file = sorted(one for one in known if Path(one).name == Path(name).name)
    near = same_file[:3] or difflib.get_close_matches(_without_prefix(name), known, n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def packaged_recipe(name: str) -> Path | None:
    """The packaged file of a name; None: there is none.

    Args:
        name: a file's path below `configs`, such as "CondInst/R50_1x_iuq.yaml", or "projects/NAME/configs/FILE.yaml". The
            ending `.yaml` may be left out, and `configs/` may stand before it.
    """
    known, wanted = _recipes(), _without_prefix(name)
    return known.get(wanted) or known.get(f"{wanted}.yaml")


def packaged_project(name: str) -> Path | None:
    """The packaged folder of a project by its name "projects/NAME"; None: there is none."""
    parts = Path(name).parts
    folder = _root().joinpath(*parts)
    return folder if len(parts) == 2 and parts[0] == "projects" and folder.is_dir() else None


def _root() -> Path:
    package = Path(adet_iuq.__file__).parent
    return package if (package / "configs").is_dir() else package.parent


def _recipes() -> dict[str, Path]:
    root = _root()
    found = sorted([*root.glob("configs/**/*"), *root.glob("projects/*/configs/**/*")])
    return {_without_prefix(str(path.relative_to(root))): path for path in found if path.suffix in (".yaml", ".py")}


def _without_prefix(name: str) -> str:
    return Path(name).as_posix().removeprefix("configs/")
