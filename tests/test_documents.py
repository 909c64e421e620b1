"""Files and sections that comments, docstrings, heads of configs and documents name exist, and links lead somewhere.

A section is named as `docs/architecture.md, "Decisions"`: the file, a comma, the heading in quotation marks.
"""

import ast
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from helpers.golden import REPOSITORY

# What git ignores, or what is not ours.
SKIPPED = {".git", ".venv", "output", "build", "dist", "site", "__pycache__"}
PROSE = (".md", ".py", ".yaml", ".yml", ".sh", ".sbatch", ".toml")
FOLDERS = "adet_iuq|configs|datasets|docs|examples|projects|tests|tools"

WEB = re.compile(r"https?://\S+")
NAMED_FILE = re.compile(r"(?<![\w./<{$~-])[\w*./-]*[\w*]\.(?:py|md|yaml|sh|sbatch)\b(?![\w/(\[*])")
NAMED_PLACE = re.compile(rf"(?<![\w./<{{$~-])(?:{FOLDERS})/[\w*./-]*[\w*](?![\w/(\[{{<$])")
NAMED_SECTION = re.compile(r'([\w./-]+\.md),\s+"([^"]+)"')
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

# Words that stand for any name.
PLACEHOLDERS = re.compile(r"\b(NAME|FILE|STUDY|CONFIG|FOLDER|MODEL)\b")
# Files that are not part of the repository.
ELSEWHERE = {
    *("data.yaml", "fruit/data.yaml"),  # of data sets in the format of YOLO
    *("output/config.yaml", "output/iuq/config.yaml", "output/first/config.yaml"),  # written by a run
    *("c.md", "d.md"),  # of a test's own site
    "tools/lazyconfig_train_net.py",  # detectron2's
    # AdelaiDet's and Mask2Former's
    *("MS_R_50_1x.yaml", "configs/CondInst/MS_R_50_1x.yaml", "MS_R_50_BiFPN_3x_sem.yaml"),
    *(
        "configs/CondInst/MS_R_50_BiFPN_1x.yaml",
        "configs/CondInst/Base-CondInst.yaml",
        "configs/SOLOv2/Base-SOLOv2.yaml",
    ),
    *("configs/coco/instance-segmentation/Base-COCO-InstanceSegmentation.yaml", "maskformer2_R50_bs16_50ep.yaml"),
}


@cache
def files(root: Path) -> frozenset[str]:
    """Paths of the repository's files and folders, relative to `root`."""
    found = set()
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in SKIPPED and not name.endswith(("_cache", ".egg-info"))]
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in (*inner, *names)}
    return frozenset(found)


@cache
def endings(root: Path) -> frozenset[str]:
    """All ends of those paths, the name alone and with more and more of its folders."""
    return frozenset(path.split("/", depth)[depth] for path in files(root) for depth in range(path.count("/") + 1))


def exists(name: str, folder: Path, root: Path) -> bool:
    """Whether a file or folder is there: as seen from `folder`, from the root, or anywhere by the end of its path."""
    seen = os.path.relpath(folder / name, root)
    if seen in files(root) or name.startswith("../"):
        return seen in files(root)
    name = PLACEHOLDERS.sub("*", name.removeprefix("./"))
    return any(fnmatch(one, name) for one in endings(root)) if "*" in name else name in endings(root)


def prose(path: Path) -> str:
    """What a file says to people: all of a document, docstrings and comments of code, comments of anything else."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return WEB.sub("", text)
    said = [re.sub(r"^.*?(^|\s)#+ ?", "", line) for line in text.splitlines() if re.search(r"(^|\s)#", line)]
    if path.suffix == ".py":
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
        said += [ast.get_docstring(node) or "" for node in nodes]
    return WEB.sub("", "\n".join(said))


@cache
def headings(path: Path) -> frozenset[str]:
    """The headings of a document, without marks of code."""
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    return frozenset(heading.replace("`", "").strip() for heading in HEADING.findall(text))


def anchor(heading: str) -> str:
    """The part of a link behind the # that leads to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def faults(root: Path) -> Iterator[str]:
    """What is named in the tree at `root` and does not exist, as "file: name"."""
    for place in sorted(files(root)):
        path = root / place
        if path.suffix not in PROSE or not path.is_file():
            continue
        text, folder = prose(path), path.parent
        named = {*NAMED_FILE.findall(text), *NAMED_PLACE.findall(text)} - ELSEWHERE
        yield from (f"{place}: {name}" for name in sorted(named) if not exists(name, folder, root))
        for name, section in NAMED_SECTION.findall(text):
            document = next((one for one in (folder / name, root / name) if one.is_file()), None)
            if document is None or " ".join(section.split()) not in headings(document):
                yield f'{place}: {name}, "{section}"'
        if path.suffix == ".md":
            yield from (f"{place}: link to {link}" for link in LINK.findall(FENCED.sub("", text)) if broken(link, path))


def broken(link: str, document: Path) -> bool:
    """Whether a link from a document to a place in the repository leads nowhere."""
    if ":" in link:  # mailto: and the like
        return False
    name, _, section = link.partition("#")
    target = document.parent / name if name else document
    if not target.exists():
        return True
    # Of an object's page in the API reference; the site's own check knows these.
    return bool(section) and not section.startswith("adet_iuq.") and section not in map(anchor, headings(target))


def test_what_is_named_exists() -> None:
    assert list(faults(REPOSITORY)) == []


@pytest.mark.parametrize(
    "name,text",
    [
        ("adet_iuq/one.py", '"""As docs/there.md has it, and docs/missing.md."""\n'),
        (
            "adet_iuq/one.py",
            "x = 1  \x23 see missing.py\n",
        ),  # \x23 is a hash: written out, it would be a comment of this file
        ("adet_iuq/one.py", 'def f():\n    """Of ../outside/there.md."""\n'),
        ("adet_iuq/one.py", '# docs/there.md,\n# "Another"\n'),
        ("configs/one.yaml", "# python tools/missing.py\nKEY: 1\n"),
        ("docs/one.md", "The folder `docs/missing`.\n"),
        ("docs/one.md", "A [link](missing.png).\n"),
        ("docs/one.md", "A [link](there.md#another).\n"),
    ],
)
def test_what_does_not_exist_is_found(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text)
    assert len(list(faults(tmp_path))) == 1


@pytest.mark.parametrize(
    "name,text",
    [
        (
            "adet_iuq/one.py",
            '"""docs/there.md,\n"A section"; there.md; docs/*.md; adet_iuq/NAME.py."""\nx = "missing.py"\n',
        ),
        (
            "configs/one.yaml",
            '# See docs/there.md, "A section", and https://example.org/missing.md.\nKEY: "missing.yaml"\n',
        ),
        (
            "docs/one.md",
            "[One](there.md#a-section), [two](#here), [three](https://example.org/missing.md)\n\n## Here\n",
        ),
    ],
)
def test_what_exists_is_no_fault(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text)
    assert list(faults(tmp_path)) == []


def write(root: Path, name: str, text: str) -> None:
    """A small tree with one document that exists, and the file in question."""
    for place, content in (("docs/there.md", "# There\n\n## A `section`\n"), (name, text)):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_text(content)
