"""YAML files that hold Python: read, never run."""

import subprocess
import sys
from pathlib import Path

import pytest

from adet_iuq.config import load_config
from adet_iuq.config.yaml_files import read_yaml
from adet_iuq.errors import UserError

# As in Mask2Former's base file for ADE20K.
TAGGED = """\
INPUT:
  MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 0.1 * 640) for x in range(5, 21)]"]
  MAX_SIZE_TRAIN: 2560
"""


def test_an_expression_is_named_with_its_key_and_what_prints_its_value(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(TAGGED)
    (tmp_path / "child.yaml").write_text("_BASE_: base.yaml\nOUTPUT_DIR: out\n")
    with pytest.raises(UserError) as raised:
        load_config(str(tmp_path / "child.yaml"))
    text = str(raised.value)
    assert f"{tmp_path}/base.yaml holds Python expressions" in text
    assert (
        "INPUT.MIN_SIZE_TRAIN (line 2): !!python/object/apply:eval [int(x * 0.1 * 640) for x in range(5, 21)]" in text
    )
    command = text.split("python -c ")[1]
    printed = subprocess.run(["sh", "-c", f"{sys.executable} -c {command}"], capture_output=True, text=True, check=True)
    assert printed.stdout.startswith("[320, 384, 448,")


def test_nothing_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "evil.yaml").write_text(f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{mark}"]\n')
    with pytest.raises(UserError, match=r"OUTPUT_DIR \(line 1\): !!python/object/apply:os.mkdir"):
        load_config(str(tmp_path / "evil.yaml"))
    assert not mark.exists()


def test_a_tuple_is_named(tmp_path: Path) -> None:
    (tmp_path / "tuple.yaml").write_text("SOLVER:\n  STEPS: !!python/tuple [1, 2]\n")
    with pytest.raises(
        UserError, match=r"SOLVER\.STEPS \(line 2\): !!python/tuple 1, 2\nWrite the value in the place of each\.$"
    ):
        load_config(str(tmp_path / "tuple.yaml"))


def test_a_tag_of_somebody_else_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("SOLVER: !include other.yaml\n")
    with pytest.raises(UserError, match=r"odd\.yaml is not valid YAML.*!include"):
        load_config(str(tmp_path / "odd.yaml"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- SEED\n- 1\n", "own.yaml holds a list where keys and values are wanted"),
        (b"# SEED: 1\n", "own.yaml holds nothing where"),
        (b"SEED\n", "own.yaml holds only a value where"),
        (b'OUTPUT_DIR: "caf\xe9"\n', "own.yaml is not UTF-8 text"),
        (b"_BASE_: 5\n", "own.yaml: _BASE_ is 5; it must be a file name or a list of them"),
        (b"_BASE_: own.yaml\n", "own.yaml has a _BASE_ file whose own _BASE_ leads back to it"),
        (b"_BASE_: base.yaml\nSEED:\n  A: 1\n", "own.yaml has a section with the name of a value.*'SEED'"),
        (b"? !!python/tuple [a, b]\n: 4\n", r"\(a key\) \(line 1\): !!python/tuple a, b"),
        (b'_BASE_: "a\\0b"\n', "own.yaml has a _BASE_ that cannot be a file"),
        (b"SEED: !!bool maybe\n", "own.yaml is not valid YAML: a value in it cannot be read"),
        (b"OUTPUT_DIR: 2026-02-30\n", "own.yaml is not valid YAML: a value in it cannot be read"),
        (b"MODEL: &m\n  A: *m\n", "own.yaml is not valid YAML: its brackets or sections"),
        (b"A: " + b"[" * 3000 + b"]" * 3000, "own.yaml is not valid YAML: its brackets or sections"),
        (
            b"SEED: !!python/object/apply:eval {args: ['1']}\n",
            r"SEED \(line 1\): !!python/object/apply:eval \{\.\.\.\}\nWrite the value in the place of each\.$",
        ),
        (b"? [a, b]\n: 4\n", r"own.yaml is not valid YAML: (.|\n)*own.yaml\", line 1"),
    ],
)
def test_files_that_are_no_configs(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "base.yaml").write_text("SEED: 1\n")
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_yaml(str(tmp_path / "own.yaml"))
