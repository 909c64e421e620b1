"""Who may import whom (docs/architecture.md, "Who may import whom"), read from the source."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.golden import REPOSITORY

SEGMENTERS = ("condinst", "solov2", "sotr", "mask2former")
GRID_SEGMENTERS = ("solov2", "sotr")  # they meet in modeling/grid
METHOD = ("iuq_meta_arch", "iuq_settings", "views")
SHARED = ("grid", "layers", "backbone")
# A model is asked by what it declares, never probed, and no class is known by its name.
PROBES = (
    re.compile(r"(has|get)attr\(((self\.)?_?model|segmenter|unwrap\(|find_meta_arch)"),
    re.compile(r"endswith\([\"']IUQ"),
)
CLASS_NAMES = re.compile(r"\b(CondInst|SOLOv2|SOTR|MaskFormer)(IUQ)?\b")


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
    """Whether the file at `place` may import `name`."""
    if within(name, "adet"):
        return False
    if place.parts[0] == "projects":
        return not within(name, "adet_iuq") or is_public(name)
    if within(name, "projects"):
        return False
    package = place.parts[1]
    if package == "iuq":
        return within(name, "adet_iuq.iuq") or within(name, "torch") or name.split(".")[0] in sys.stdlib_module_names
    if package == "studies":
        # It knows a training by its command line and the files that it leaves.
        own = any(within(name, f"adet_iuq.{one}") for one in ("studies", "cores", "errors", "files", "__version__"))
        return own or not (within(name, "adet_iuq") or within(name, "detectron2"))
    if package == "modeling":
        return allowed_in_modeling(place, name)
    if package in ("engine", "data", "evaluation", "checkpoint"):
        return not any(within(name, f"adet_iuq.modeling.{one}") for one in (*SEGMENTERS, "grid"))
    return True


def is_public(name: str) -> bool:
    """Whether `name` is a package of adet_iuq, or what a package exports in `__all__`; and the errors."""
    *package, last = name.split(".")
    if REPOSITORY.joinpath(*package, last).is_dir():
        return True
    file = REPOSITORY.joinpath(*package, "__init__.py")
    if not file.is_file():
        return package == ["adet_iuq", "errors"]
    exported = [n.value for n in ast.parse(file.read_text()).body if isinstance(n, ast.Assign) and exports(n)]
    return any(last in ast.literal_eval(names) for names in exported)


def exports(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)


def allowed_in_modeling(place: Path, name: str) -> bool:
    """A base segmenter is complete without the method, segmenters meet in shared rooms only, and those know none of them."""
    room = place.parts[2]
    others = [one for one in (*SEGMENTERS, "grid") if one != room] if room != "__init__.py" else []
    if room in GRID_SEGMENTERS:
        others.remove("grid")
    if any(within(name, f"adet_iuq.modeling.{one}") for one in others):
        return False
    base = room in (*SEGMENTERS, *SHARED) and not place.stem.endswith("_iuq") and place.stem != "__init__"
    method = within(name, "adet_iuq.iuq") or any(within(name, f"adet_iuq.modeling.{one}") for one in METHOD)
    return not (method and (base or room == "segmenter.py"))


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
        ("adet_iuq/studies/runner.py", "from adet_iuq.engine import Trainer"),
        ("projects/SOLQ/solq.py", "from adet_iuq.iuq._private import x"),
        ("projects/SOLQ/solq.py", "from adet_iuq.engine.loop.state import run_state"),
        ("projects/SOLQ/solq.py", "from adet_iuq.modeling import Unheard"),
    ],
)
def test_breach_is_found(tmp_path: Path, place: str, line: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(f"import os\n{line}\n")
    assert len(breaches(tmp_path)) == 1


def strings(path: Path) -> Iterator[str]:
    """Text constants of a file that are no docstrings."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(node.value) for node in first if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def probes(root: Path) -> list[str]:
    """Lines that ask a model what it has, as "file: line"."""
    files = sorted([*root.glob("adet_iuq/**/*.py"), *root.glob("tools/**/*.py"), *root.glob("projects/**/*.py")])
    return [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in files
        if path.relative_to(root) != Path("adet_iuq/modeling/segmenter.py")
        for line in path.read_text().splitlines()
        if any(pattern.search(line) for pattern in PROBES)
    ]


def test_no_model_is_probed() -> None:
    assert probes(REPOSITORY) == []


@pytest.mark.parametrize(
    "line",
    [
        'if hasattr(model, "iuq_state"):',
        'keys = getattr(self.model, "optional_checkpoint_keys", ())',
        'ceiling = getattr(unwrap(self.model), "mask_loss_ceiling", 1.0)',
        'count = getattr(find_meta_arch(cfg), "images_per_batch", None)',
        'if cfg.MODEL.META_ARCHITECTURE.endswith("IUQ"):',
    ],
)
def test_a_probe_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "one.py").write_text(line + "\n    pass\n")
    assert len(probes(tmp_path)) == 1


@pytest.mark.parametrize("package", ["engine", "data", "evaluation", "checkpoint"])
def test_no_segmenter_is_known_by_its_name(package: str) -> None:
    named = {
        str(path.relative_to(REPOSITORY)): text
        for path in REPOSITORY.glob(f"adet_iuq/{package}/**/*.py")
        for text in strings(path)
        if CLASS_NAMES.fullmatch(text)
    }
    assert named == {}


def test_the_core_names_no_config_key() -> None:
    """Its messages speak of its own arguments; whoever reads a config adds where they come from."""
    named = [
        f"{path.name}: {text}"
        for path in REPOSITORY.glob("adet_iuq/iuq/*.py")
        for text in strings(path)
        if re.search(r"\b(MODEL|IUQ|INTER|MEMORY|EQUI)\.", text)
    ]
    assert named == []


def test_importing_the_package_or_the_method_leaves_detectron2_alone() -> None:
    code = "import sys, adet_iuq, adet_iuq.iuq; sys.exit('detectron2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Whatever opens an image file by another way than the reader of adet_iuq.data.images sees other pixels than the training.
OTHER_READERS = re.compile(
    r"\bImage\.open\(|\bcv2\.im(read|decode)|detection_utils(\.| import .*\b)read_image\b|\bDatasetMapper\("
)
READER = "adet_iuq/data/images/opening.py"


def other_readers(root: Path) -> list[str]:
    """Lines that open an image file past the reader, as "file: line"; detectron2's mapper does, too."""
    files = sorted([*root.glob("adet_iuq/**/*.py"), *root.glob("tools/**/*.py"), *root.glob("projects/**/*.py")])
    return [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in files
        if path.relative_to(root) != Path(READER) and "tests" not in path.relative_to(root).parts
        for line in path.read_text().splitlines()
        if OTHER_READERS.search(line)
    ]


def test_images_have_one_reader() -> None:
    assert other_readers(REPOSITORY) == []
    assert OTHER_READERS.search((REPOSITORY / READER).read_text())


@pytest.mark.parametrize(
    "line",
    [
        "with Image.open(path) as image:",
        "image = cv2.imread(str(path))",
        "from detectron2.data.detection_utils import convert_PIL_to_numpy, read_image",
        "image = detection_utils.read_image(path)",
        "mapper = DatasetMapper(cfg, is_train=False)",
    ],
)
def test_another_reader_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "one.py").write_text(f"{line}\n    pass\n")
    assert len(other_readers(tmp_path)) == 1
