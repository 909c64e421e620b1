"""The golden tests on the device: numbers of the published implementations, tolerances ten times those on the CPU.

The pages in docs/parity have the CPU's tolerances, and tests/helpers/golden.py says what a GPU may differ by. Convolutions
and products are computed in float32 throughout, without TensorFloat-32 (golden_plugin.py).
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from .golden_plugin import ROWS_FD
from .stage import Row, Settings

_FILES = (
    "tests/modeling/condinst/test_condinst_golden.py",
    "tests/modeling/mask2former/test_mask2former_golden.py",
    "tests/modeling/solov2/test_solov2_golden.py",
    "tests/modeling/sotr/test_sotr_golden.py",
    "tests/modeling/backbone/test_mask2former_swin_golden.py",
)
# Whatever computes with a model. Lists of parameters need no GPU, and whether the tests can fail was shown on the CPU.
_COMPARED = "equals_published or test_features"
_DRY = "test_mask2former_equals_published and msdeform"


def rows(settings: Settings) -> Iterator[Row]:
    """A row for each test as soon as it ends; pytest runs in a process of its own, whose plug-in sends them."""
    chosen = ["-q", "-m", "golden and not slow", "-k", settings.pick(_COMPARED, _DRY), "-p", "no:cacheprovider"]
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *chosen, "-p", "gpu_check.golden_plugin", *_FILES],
        env={**os.environ, "GOLDEN_DEVICE": settings.device, ROWS_FD: str(writing)},
        pass_fds=[writing],
    )
    os.close(writing)  # so that the pipe ends with pytest
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
    code = process.wait()
    if code not in (0, 1):  # 1: tests failed, which their rows say
        raise RuntimeError(f"pytest ended with exit code {code}; see what it printed.")
