"""The commands of the documentation that are marked to be run do run, one after the other, in a copy of the repository."""

from pathlib import Path

import pytest

from helpers.golden import REPOSITORY
from helpers.run_blocks import Block, BlockFailed, copy_of, marked_blocks, run_blocks

START = '```bash title="run"'
SECONDS = 600  # each of them takes two minutes of one core at most; other work may share the machine


def test_blocks_are_found_in_the_order_of_the_navigation(tmp_path: Path) -> None:
    nav = "nav:\n  - B: b.md\n  - More:\n      - A: a.md\n      # - C: c.md\n      - D: d.md\n"
    (tmp_path / "mkdocs.yml").write_text(nav)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text(f"# A\n\n{START}\necho 1\n```\n\n```bash\nfalse\n```\n\n{START}\necho 2\n```\n")
    (tmp_path / "docs/b.md").write_text(f"{START}\necho 0\n```\n")
    (tmp_path / "docs/c.md").write_text(f"{START}\nfalse\n```\n")
    assert marked_blocks(tmp_path) == [
        Block("docs/b.md", 2, "echo 0\n"),
        Block("docs/a.md", 4, "echo 1\n"),
        Block("docs/a.md", 12, "echo 2\n"),
    ]


def test_the_first_failing_block_is_named_and_ends_it(tmp_path: Path) -> None:
    blocks = [
        Block("p.md", 1, "touch first\n"),
        Block("p.md", 7, "false\ntouch second\n"),
        Block("p.md", 9, "touch third\n"),
    ]
    with pytest.raises(BlockFailed, match=r"p\.md, line 7: exit code 1"):
        run_blocks(blocks, tmp_path, {}, seconds=10)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_block_that_does_not_end_fails(tmp_path: Path) -> None:
    with pytest.raises(BlockFailed, match="not finished after 0 s"):
        run_blocks([Block("p.md", 1, "sleep 5\n")], tmp_path, {}, seconds=0.2)


@pytest.mark.slow
def test_marked_blocks_run(tmp_path: Path) -> None:
    blocks = marked_blocks(REPOSITORY)
    assert len(blocks) >= 10
    folder = copy_of(REPOSITORY, tmp_path / "repository")
    environment = {"PYTHONPATH": str(folder), "ADET_IUQ_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    times = run_blocks(blocks, folder, environment, seconds=SECONDS)
    for block, seconds in zip(blocks, times, strict=True):
        print(f"{seconds:6.1f} s  {block.page}, line {block.line}")
