"""A plug-in of pytest for golden.py: sends a row for each test to the file descriptor that $GPU_CHECK_ROWS_FD names."""

import json
import os
from typing import Any

from .stage import OK, Row

ROWS_FD = "GPU_CHECK_ROWS_FD"


def pytest_configure() -> None:
    """Called by pytest at its start."""
    import torch  # here, because golden.py reads this file without needing torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def pytest_runtest_logreport(report: Any) -> None:
    """Called by pytest after set-up, call and tear-down of each test."""
    if report.when != "call" and report.passed:
        return
    reasons = [line[2:].strip() for line in str(report.longrepr or "").splitlines() if line.startswith("E ")]
    name = report.nodeid.rpartition("::")[2]
    row: Row = {OK: not report.failed, "test": name, "seconds": round(report.duration, 2), "why": "".join(reasons[:1])}
    os.write(int(os.environ[ROWS_FD]), (json.dumps(row) + "\n").encode())
