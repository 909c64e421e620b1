"""The report of a check, as JSON and as Markdown."""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from .running import Result
from .stage import Row

_PACKAGES = ("torch", "torchvision", "triton", "numpy", "detectron2", "timm")


def environment(device: str, dry: bool) -> dict[str, str]:
    """What the numbers depend on, found out without starting the device."""
    found = {
        "device": device,
        "sizes": "tiny (dry run)" if dry else "real",
        "GPU and driver": _output(
            "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
        ),
        "revision": _output("git", "rev-parse", "HEAD"),
        "Python": sys.version.split()[0],
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def write_report(folder: Path, found: dict[str, str], results: Sequence[Result]) -> None:
    """Writes both files, as far as the check has come."""
    content = {"environment": found, "stages": [result.as_json() for result in results]}
    (folder / "gpu_check.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu_check.md").write_text(markdown(found, results), encoding="utf-8")


def markdown(found: dict[str, str], results: Sequence[Result]) -> str:
    """A table of all stages, then one of the rows of each."""
    summary: list[Row] = [
        {"stage": one.name, "outcome": one.outcome, "seconds": one.seconds, "limit": one.limit} for one in results
    ]
    parts = ["# Check on a GPU", ", ".join(f"{name} {value}" for name, value in found.items()), _table(summary)]
    for one in results:
        parts += [f"## {one.name}: {one.title}", _table(one.rows) if one.rows else "No rows."]
        if one.log:
            parts.append("```\n" + "\n".join(one.log) + "\n```")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str | float | int | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")
