"""A training with a report: the same run as without."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adet_iuq.reporting import process
from adet_iuq.reporting.facts import read_facts
from adet_iuq.reporting.hook import report_evaluation
from helpers.toy_segmenter import metrics, setup, toy_args, train

# Takes down what there is to read when a report begins.
NOTES = """
import sys, pathlib, time
folder = pathlib.Path(sys.argv[-1])
lines = (folder / "metrics.json").read_text().splitlines() if (folder / "metrics.json").is_file() else []
with (folder / "reports.txt").open("a") as file:
    file.write(f"{len(sys.argv)} {sum('segm/AP' in line for line in lines)}\\n")
(folder / "report.html").write_text("a page")
"""


@pytest.fixture(autouse=True)
def clean_loggers() -> Iterator[None]:
    names = ("adet_iuq", "detectron2", "fvcore")
    before = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in names}
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = propagate


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path_factory.getbasetemp() / "adet_iuq_cache"))


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """A program that takes notes in the report's place; gives what it noted: words of its command line, evaluations."""
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", NOTES))
    return lambda folder: (folder / "reports.txt").read_text().splitlines()


def state(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "model_final.pth")
    return content


def test_losses_weights_and_random_states_are_those_of_a_run_without(
    tmp_path: Path, noted: Callable[[Path], list[str]]
) -> None:
    """With workers and without, evaluated in between."""
    for workers in (0, 2):
        runs = {}
        for name in ("with", "without"):
            folder = tmp_path / f"{name}{workers}"
            more: dict[str, Any] = {
                "REPORT__ENABLED": name == "with",
                "DATALOADER__NUM_WORKERS": workers,
                "TEST__EVAL_PERIOD": 4,
            }
            train(toy_args(folder, **more))
            runs[name] = (metrics(folder), state(folder))
        assert runs["with"][0] == runs["without"][0] and len(runs["with"][0]) > 12
        ours, theirs = runs["with"][1], runs["without"][1]
        for name, tensor in theirs["model"].items():
            assert torch.equal(ours["model"][name], tensor), name
        (own,), (other,) = (one["trainer"]["random_states"] for one in (ours, theirs))
        assert own["python"] == other["python"] and torch.equal(own["torch"], other["torch"])
    left, other_left = ({path.name for path in (tmp_path / name).iterdir()} for name in ("with0", "without0"))
    files = {name for name in left - other_left if not name.startswith("events")}
    assert files == {"label_grid.jpg", "report.html", "report.json", "reports.txt"}


def test_a_report_follows_every_evaluation_and_has_its_numbers(
    tmp_path: Path, noted: Callable[[Path], list[str]]
) -> None:
    train(toy_args(tmp_path, REPORT__ENABLED=True, TEST__EVAL_PERIOD=4, REPORT__LABEL_GRID=0))
    reports = noted(tmp_path)
    assert reports[-1] == "2 3"  # the last one, not at the lowest priority, with all three evaluations
    assert all(line.startswith("3 ") for line in reports[:-1])  # no other begins while one is being written
    assert not (tmp_path / "label_grid.jpg").exists()


def test_a_resumed_run_keeps_its_label_grid(tmp_path: Path, noted: Callable[[Path], list[str]]) -> None:
    options: dict[str, Any] = {"REPORT__ENABLED": True, "DATASETS__TEST": "()"}
    train(toy_args(tmp_path, **options))
    (tmp_path / "label_grid.jpg").write_bytes(b"of the beginning")
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    train(toy_args(tmp_path, resume=True, **options))
    assert (tmp_path / "label_grid.jpg").read_bytes() == b"of the beginning"
    assert noted(tmp_path) == ["2 0", "2 0"]


def test_what_is_run_is_noted(tmp_path: Path, noted: Callable[[Path], list[str]]) -> None:
    cfg = setup(toy_args(tmp_path, REPORT__ENABLED=True))
    report_evaluation(cfg)
    facts = read_facts(tmp_path)
    assert facts.summary["Meta-architecture"] == "ToySegmenter" and facts.summary["Evaluated on"] == "shapes_val"
    assert facts.environment["device"] == "cpu" and facts.environment["torch"] == torch.__version__
    assert noted(tmp_path) == ["2 0"]


def test_off_means_off(tmp_path: Path, noted: Callable[[Path], list[str]]) -> None:
    report_evaluation(setup(toy_args(tmp_path, REPORT__ENABLED=False)))
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "reports.txt").exists()


def test_a_report_that_fails_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", "raise SystemExit('Error: the disk is full.')"))
    assert train(toy_args(tmp_path, REPORT__ENABLED=True))["segm"]
    assert (tmp_path / "log.txt").read_text().count("No report: the disk is full.") == 1


@pytest.mark.slow
def test_the_report_itself(tmp_path: Path) -> None:
    """A training of two evaluations, with mosaics; then the evaluation alone, of another folder."""
    train(toy_args(tmp_path / "run", REPORT__ENABLED=True, TEST__EVAL_PERIOD=6, TEST__MOSAIC__ENABLED=True))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "shapes_val_mosaic" in page and "12 of 12 iterations" in page and "Learning rate" in page
    assert page.count("<svg") == 9 and "label_grid.jpg" in page
    assert "Report: " in (tmp_path / "run" / "log.txt").read_text()
