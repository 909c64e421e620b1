"""The command blocks of the documentation that are marked to be run: found, and executed as a reader would.

A marked block starts with the line ```bash title="run". Pages are read in the order of the navigation, so that a block may
use what the blocks before it have left.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r'^```bash title="run"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_PAGE = re.compile(r"^ +- .*: (\S+\.md)$", re.MULTILINE)  # of the navigation; a line that starts with # is none


@dataclass(frozen=True)
class Block:
    """Lines for bash, and where they stand."""

    page: str  # path below the repository
    line: int  # of the first command, counted from 1
    commands: str


class BlockFailed(AssertionError):
    """A block ended with another exit code than 0, or not in time."""


def pages_in_order(repository: Path) -> list[str]:
    """The pages of docs/ that the navigation of mkdocs.yml names, as paths below the repository."""
    names = _PAGE.findall((repository / "mkdocs.yml").read_text())
    return [f"docs/{name}" for name in names if (repository / "docs" / name).is_file()]


def marked_blocks(repository: Path) -> list[Block]:
    """All marked blocks, in the order in which a reader meets them."""
    blocks = []
    for page in pages_in_order(repository):
        text = (repository / page).read_text()
        for match in _BLOCK.finditer(text):
            blocks.append(Block(page, text.count("\n", 0, match.start(1)) + 1, match[1]))
    return blocks


def copy_of(repository: Path, folder: Path) -> Path:
    """A copy of the files that git knows or does not ignore, in `folder`, which is made."""
    listed = ["git", "-C", str(repository), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (repository / name).is_file():  # git still lists a file that was deleted
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, target)
    return folder


def run_blocks(blocks: Sequence[Block], folder: Path, environment: Mapping[str, str], *, seconds: float) -> list[float]:
    """Runs blocks in `folder` one after the other; how long each one took, in seconds.

    Args:
        blocks: what to run.
        folder: the working folder of all of them.
        environment: variables besides those of this process. `python` is the one that runs this, whatever they say.
        seconds: what a block may take.

    Raises:
        BlockFailed: the first block that fails, with the end of what it wrote; those after it do not run.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, **environment, "PATH": path}
    times = []
    for block in blocks:
        started, place = time.monotonic(), f"{block.page}, line {block.line}"
        command = ["bash", "-euo", "pipefail", "-c", block.commands]
        try:
            done = subprocess.run(
                command, cwd=folder, env=variables, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BlockFailed(f"{place}: not finished after {seconds:.0f} s:\n{block.commands}") from error
        if done.returncode != 0:
            written = (done.stdout + done.stderr)[-3000:]
            raise BlockFailed(f"{place}: exit code {done.returncode}:\n{block.commands}\n{written}")
        times.append(time.monotonic() - started)
    return times
