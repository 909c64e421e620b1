"""Values that would end a training with a traceback."""

import pytest

from adet_iuq.config import load_config
from adet_iuq.errors import UserError

REFUSED = [
    ("SOLVER.MAX_ITER", "0", "it must be 1 or more"),
    ("SOLVER.MAX_ITER", "-5", "it must be 1 or more"),
    ("DATALOADER.NUM_WORKERS", "-1", "it must be 0 or more"),
    ("INPUT.MIN_SIZE_TRAIN", "('64',)", "whole numbers, and '64' is none"),
    ("SOLVER.STEPS", "('a',)", "whole numbers, and 'a' is none"),
    ("DATASETS.TRAIN", "(1,)", "words in quotes, and 1 is none"),
    ("DATASETS.TEST", "(None,)", "words in quotes, and None is none"),
]


@pytest.mark.parametrize("key,value,words", REFUSED)
def test_refused(key: str, value: str, words: str) -> None:
    with pytest.raises(UserError, match=f"{key} (is|in the command line).*{words}"):
        load_config(None, [key, value])


@pytest.mark.parametrize(
    "key,value", [("SOLVER.MAX_ITER", "1"), ("DATALOADER.NUM_WORKERS", "0"), ("SOLVER.STEPS", "()")]
)
def test_accepted(key: str, value: str) -> None:
    load_config(None, [key, value])
