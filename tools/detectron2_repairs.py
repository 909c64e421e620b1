"""The reasons why the Python files of detectron2 v0.6 do not run today, and the repair for each place.

Five causes: aliases that NumPy dropped, a constant that Pillow dropped, `pkg_resources` that setuptools dropped, `caffe2`
that torch dropped, and the compiled module `_C`, which the pure-Python build does not have. A repair names the file, the
pattern and how often the pattern must match; any other number stops the build, so no repair can fail unnoticed.
"""

import re
from dataclasses import dataclass
from pathlib import Path


class RepairError(Exception):
    """A file does not look as expected; the message names it."""


@dataclass(frozen=True)
class Repair:
    """Replaces `pattern` in `file` (relative to the unpacked sdist) by `replacement`, exactly `count` times."""

    file: str
    pattern: str
    replacement: str
    count: int


MISSING_OPS = '''\
"""Stands in for detectron2's compiled module in this pure-Python build."""


class _MissingExtension:
    """Any attribute asked for raises an error that says why."""

    def __getattr__(self, name):
        if name.startswith("__"):  # what inspect, pickle and the like ask any object for
            raise AttributeError(name)
        raise RuntimeError(
            f"detectron2._C.{name} is compiled code, which this pure-Python build (0.6+pure) does not have. "
            "Rotated boxes and detectron2's deformable convolutions need a build from source: "
            "https://detectron2.readthedocs.io/tutorials/install.html. "
            "For deformable convolutions torchvision.ops.deform_conv2d serves as well."
        )


_C = _MissingExtension()
'''

FAST_EVAL = '''\
"""The pure-Python build evaluates with pycocotools' own class; the compiled one gives the same numbers faster."""

from pycocotools.cocoeval import COCOeval


class COCOeval_opt(COCOeval):
    """pycocotools' COCOeval under the name that detectron2's evaluators import."""
'''

# Files that the pure build adds to the published ones or puts in their place.
NEW_FILES = {"detectron2/layers/missing_ops.py": MISSING_OPS}
REPLACED_FILES = {"detectron2/evaluation/fast_eval_api.py": (FAST_EVAL, r"^from detectron2 import _C$")}


def _aliases(file: str, count: int) -> Repair:
    return Repair(file, r"\bnp\.(bool|int|float|str)\b", r"\1", count)


def _missing(file: str) -> Repair:
    return Repair(file, r"^from detectron2 import _C$", "from detectron2.layers.missing_ops import _C", 1)


REPAIRS = (
    _aliases("detectron2/evaluation/pascal_voc_evaluation.py", 2),
    _aliases("detectron2/evaluation/sem_seg_evaluation.py", 7),
    _aliases("detectron2/structures/masks.py", 3),
    _aliases("detectron2/data/datasets/pascal_voc.py", 1),
    _aliases("detectron2/data/build.py", 2),
    _aliases("detectron2/utils/visualizer.py", 3),
    _aliases("detectron2/utils/video_visualizer.py", 1),
    Repair("detectron2/data/transforms/transform.py", r"\bImage\.LINEAR\b", "Image.BILINEAR", 1),
    Repair("detectron2/model_zoo/model_zoo.py", r"^import pkg_resources\n", "", 1),
    Repair(
        "detectron2/model_zoo/model_zoo.py",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", os\.path\.join\("configs", config_path\)\s*\)',
        'os.path.join(os.path.dirname(__file__), "configs", config_path)',
        1,
    ),
    _missing("detectron2/layers/rotated_boxes.py"),
    _missing("detectron2/layers/roi_align_rotated.py"),
    _missing("detectron2/layers/deform_conv.py"),
    Repair(
        "detectron2/layers/nms.py",
        r"^import torch\n",
        "import torch\n\nfrom detectron2.layers.missing_ops import _C\n",
        1,
    ),
    Repair("detectron2/layers/nms.py", r"\btorch\.ops\.detectron2\.nms_rotated\(", "_C.nms_rotated(", 1),
    Repair(
        "detectron2/export/__init__.py",
        r"^from \.api import \*\n",
        "try:\n    from .api import *\nexcept ImportError:  # caffe2, which torch has no more\n    pass\n",
        1,
    ),
    Repair(
        "detectron2/utils/collect_env.py",
        r'f"not built correctly: \{e\}"',
        '"none: pure-Python build"',
        1,
    ),
)

# The requirements of v0.6's setup.py without the pins that cannot be met today: black is a formatter that only
# detectron2's developers need, and iopath was held below 0.1.10. Both patterns must match.
REQUIREMENT_REPAIRS = (
    Repair("setup.py", r'"black==21\.4b2",', "", 1),
    Repair("setup.py", r'"iopath>=0\.1\.7,<0\.1\.10"', '"iopath>=0.1.7"', 1),
    Repair("setup.py", r'"dataclasses; python_version<\'3\.7\'",', "", 1),
)


def repair(root: Path, repairs: tuple[Repair, ...] = (*REPAIRS, *REQUIREMENT_REPAIRS)) -> None:
    """Repairs the unpacked sdist at `root` in place.

    Raises:
        RepairError: a file is missing, or a pattern matches more or fewer times than it must.
    """
    for one in repairs:
        path = root / one.file
        mended, found = re.subn(one.pattern, one.replacement, _read(path), flags=re.MULTILINE)
        if found != one.count:
            raise RepairError(f"{one.file}: the pattern {one.pattern!r} matches {found} times, expected {one.count}.")
        path.write_text(mended, encoding="utf-8")


def replace_files(root: Path) -> None:
    """Puts the files of the pure build in place.

    Raises:
        RepairError: a file to be replaced is not that of v0.6.
    """
    for name, (text, pattern) in REPLACED_FILES.items():
        if not re.search(pattern, _read(root / name), flags=re.MULTILINE):
            raise RepairError(f"{name}: {pattern!r} does not match, the file is not the one of v0.6.")
        (root / name).write_text(text, encoding="utf-8")
    for name, text in NEW_FILES.items():
        if (root / name).exists():
            raise RepairError(f"{name} exists already.")
        (root / name).write_text(text, encoding="utf-8")


def requirements(setup_py: str) -> list[str]:
    """The install_requires of a (repaired) setup.py, read without running it."""
    block = re.search(r"install_requires=\[(.*?)\n    \],", setup_py, flags=re.DOTALL)
    if block is None:
        raise RepairError("setup.py: no install_requires found.")
    lines = [line.split("#")[0].strip() for line in block.group(1).splitlines()]
    return [line.strip(",").strip('"') for line in lines if line.startswith('"')]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RepairError(f"{path.name}: the sdist has no such file ({path}).") from error
