"""The oracle as a finished run, shared by the tests of one file."""

from pathlib import Path

import pytest

from adet_iuq import Predictor
from helpers.blob_segmenter import save_blob_run


@pytest.fixture(scope="module")
def blob_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a run whose images go through the network with 100 pixels on their shorter side."""
    folder = tmp_path_factory.mktemp("blobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADET_IUQ_CACHE", str(folder / "cache"))
        return save_blob_run(folder / "run")


@pytest.fixture(scope="module")
def predictor(blob_run: Path) -> Predictor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADET_IUQ_CACHE", str(blob_run.parent / "cache"))
        return Predictor(blob_run)
