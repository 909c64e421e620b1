"""Loggers and caches as they were before each test."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def clean_loggers() -> Iterator[None]:
    """A run sets up loggers of whole packages; the next test must find them untouched."""
    names = ("adet_iuq", "detectron2", "fvcore")
    before = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in names}
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).propagate = propagate


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests: the scenes are rendered once."""
    folder = tmp_path_factory.getbasetemp() / "adet_iuq_cache"
    monkeypatch.setenv("ADET_IUQ_CACHE", str(folder))
    return folder
