import json
import subprocess
from pathlib import Path

import pytest

import adet_iuq
from adet_iuq.errors import UserError
from adet_iuq.reporting import facts
from adet_iuq.reporting.facts import Facts, config_value, read_facts, revision, write_facts


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_facts(str(tmp_path), "SEED: 1\n", "H100", 4)
    found = read_facts(tmp_path)
    assert found.config == "SEED: 1\n" and found.environment["device"] == "4 x H100"
    assert found.environment["adet_iuq"].startswith(adet_iuq.__version__)


def test_without_a_note_the_config_tells(tmp_path: Path) -> None:
    assert read_facts(tmp_path) == Facts({}, "")
    (tmp_path / "config.yaml").write_text("SEED: 1\n")
    assert read_facts(tmp_path) == Facts({}, "SEED: 1\n")


def test_a_damaged_note(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"environment": {}}))
    with pytest.raises(UserError, match="Delete it"):
        read_facts(tmp_path)


def test_summary() -> None:
    text = "SEED: 3\nDATASETS:\n  TRAIN:\n  - a\n  - b\nSOLVER:\n  AMP:\n    ENABLED: false\n"
    assert Facts({}, text).summary == {"Trained on": "a, b", "Mixed precision": "off", "Seed": "3"}
    assert Facts({}, "a: [").summary == Facts({}, "- 1").summary == {}


def test_value_of_a_key() -> None:
    values = {"A": {"B": 0}, "C": 1}
    assert [config_value(values, key, "?") for key in ("A.B", "C", "A.X", "C.D")] == [0, 1, "?", "?"]


def test_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adet_iuq").mkdir()
    file = tmp_path / "adet_iuq" / "__init__.py"
    file.touch()
    monkeypatch.setattr(facts.adet_iuq, "__file__", str(file))
    assert revision() == "installed package"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert revision() == commit[:12]
    file.write_text("changed = 1\n")
    assert revision() == f"{commit[:12]}, with changes"
    (tmp_path / "REVISION").write_text("0123456789abcdef\n")
    assert revision() == "0123456789ab"
