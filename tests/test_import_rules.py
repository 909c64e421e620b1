"""Who may import whom (ARCHITECTURE, section 2), read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.golden import REPOSITORY

SEGMENTERS = ("condinst", "solov2", "sotr", "mask2former")


def imports(path: Path, root: Path) -> Iterator[str]:
    """Dotted names that a file imports; relative imports resolved."""
    package = ".".join(path.relative_to(root).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def breaches(root: Path) -> list[str]:
    """What breaks a rule in the tree at `root`, as "file imports name"."""
    found = []
    for path in sorted([*root.glob("adet_iuq/**/*.py"), *root.glob("projects/**/*.py")]):
        place = path.relative_to(root)
        for name in imports(path, root):
            if not allowed(place, name):
                found.append(f"{place} imports {name}")
    return found


def allowed(place: Path, name: str) -> bool:
    if within(name, "adet"):
        return False
    if place.parts[0] == "projects":
        return not any(part.startswith("_") for part in name.split(".")) or not within(name, "adet_iuq")
    if within(name, "projects"):
        return False
    package = place.parts[1]
    if package == "iuq":
        return within(name, "adet_iuq.iuq") or within(name, "torch") or name.split(".")[0] in sys.stdlib_module_names
    segmenter = place.parts[2] if package == "modeling" and place.parts[2] in SEGMENTERS else None
    if segmenter is not None:
        others = [s for s in SEGMENTERS if s != segmenter]
        if any(within(name, f"adet_iuq.modeling.{other}") for other in others):
            return False
        knows_the_method = place.stem.endswith("_iuq") or place.stem == "__init__"
        method = within(name, "adet_iuq.iuq") or within(name, "adet_iuq.modeling.iuq_meta_arch")
        return knows_the_method or not method
    shared = package == "modeling" and place.parts[2] in ("layers", "backbone")
    if shared or package in ("engine", "data", "evaluation"):
        return not any(within(name, f"adet_iuq.modeling.{one}") for one in SEGMENTERS)
    return True


def test_no_breach() -> None:
    assert breaches(REPOSITORY) == []


@pytest.mark.parametrize(
    "place,line",
    [
        ("adet_iuq/iuq/memory.py", "import detectron2"),
        ("adet_iuq/iuq/memory.py", "from ..config import get_cfg"),
        ("adet_iuq/modeling/condinst/condinst.py", "from adet_iuq.iuq import Scene"),
        ("adet_iuq/modeling/solov2/solov2.py", "from adet_iuq.modeling.condinst import CondInst"),
        ("adet_iuq/engine/loop/trainer.py", "from adet_iuq.modeling.condinst.condinst import CondInst"),
        ("adet_iuq/modeling/layers/masks.py", "from ..condinst.mask_head import MaskHead"),
        ("adet_iuq/data/loading/loader.py", "import projects.SOLQ"),
        ("adet_iuq/config/load.py", "from adet.config import get_cfg"),
        ("projects/SOLQ/solq.py", "from adet_iuq.iuq._private import x"),
    ],
)
def test_breach_is_found(tmp_path: Path, place: str, line: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(f"import os\n{line}\n")
    assert len(breaches(tmp_path)) == 1


def test_importing_the_package_or_the_method_leaves_detectron2_alone() -> None:
    code = "import sys, adet_iuq, adet_iuq.iuq; sys.exit('detectron2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
