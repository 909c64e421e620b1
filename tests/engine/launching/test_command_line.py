"""What to type to go on, for every way to start a run."""

import pytest

from adet_iuq.engine.launching.command_line import command_to_go_on

PYTHON, OPTIONS = "/venv/bin/python", ["DATASETS.TEST", "('a',)"]
FLAGS = ["--config-file", "a.yaml", "--num-gpus", "2"]
RESUMED = "--config-file a.yaml --num-gpus 2 --resume DATASETS.TEST '('\"'\"'a'\"'\"',)'"


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ([PYTHON, "tools/train_net.py"], f"{PYTHON} tools/train_net.py {RESUMED}"),
        ([PYTHON, "-m", "adet_iuq", "train"], f"{PYTHON} -m adet_iuq train {RESUMED}"),
        ([PYTHON, "/my.venv/bin/adet-iuq", "train"], f"/my.venv/bin/adet-iuq train {RESUMED}"),
    ],
)
def test_resume_goes_before_the_overrides(start: list[str], said: str) -> None:
    words = [*start, *FLAGS, *OPTIONS]
    assert command_to_go_on(words, "a.yaml", OPTIONS, resume=True) == said
    assert command_to_go_on(words, "a.yaml", OPTIONS, resume=False) == said.replace(" --resume", "")
    resumed = [*start, *FLAGS, "--resume", *OPTIONS]
    assert command_to_go_on(resumed, "a.yaml", OPTIONS, resume=True) == said
    assert command_to_go_on(resumed, "a.yaml", OPTIONS, resume=False) == said


def test_without_a_command_line_it_is_said_in_words() -> None:
    for words in ([], [PYTHON], [PYTHON, "-m", "ipykernel", "-f", "kernel.json"]):
        assert command_to_go_on(words, "a.yaml", OPTIONS, resume=True) == "start it again, with --resume"
        assert command_to_go_on(words, "a.yaml", [], resume=False) == "start it again"
