"""tools/visualize_queries.py, with random weights of a base and of its IUQ twin."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from helpers.golden import REPOSITORY
from helpers.query_run import THRESHOLD, query_runs, write_photo


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("visualize_queries", REPOSITORY / "tools" / "visualize_queries.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return query_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def words(runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options that every call needs."""
    monkeypatch.setenv("ADET_IUQ_CACHE", str(runs[0].parent / "cache"))
    iuq, _ = runs
    output = str(tmp_path / "out" / "query.png")
    weights = ["--config-file", str(iuq / "config.yaml"), "--weights", str(iuq / "model_final.pth")]
    return [*weights, "--output", output, "--score-threshold", THRESHOLD]


def test_base_beside_iuq_on_a_photo_and_a_gallery(
    words: list[str], runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The picture itself, which lies in the folder of the gallery, is no other picture."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, size in enumerate(((80, 120), (120, 80), (60, 60))):
        write_photo(photos / f"{number}.png", size, number)
    more = ["--image", str(photos / "0.png"), "--gallery", str(photos), "--instance", "1"]
    base = ["--base-weights", str(runs[1] / "model_final.pth")]
    assert tool().main([*words, *more, *base]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[-3:-1]] == ["base", "IUQ"]
    for line in lines[-3:-1]:
        assert re.search(r"fires on [\d.]+ % of its own image, and on [\d.]+ % of 1.png, [\d.]+ % of 2.png;", line), (
            line
        )
        assert re.search(r"other detections with its mask: \d+; queries of this instance: 1$", line), line
    both = cv2.imread(str(tmp_path / "out" / "query.png"))
    assert tool().main([*words, *more]) == 0
    alone = cv2.imread(str(tmp_path / "out" / "query.png"))
    assert both is not None and alone is not None
    assert both.shape[1] == alone.shape[1] and both.shape[0] > 1.5 * alone.shape[0]


def test_instances_and_gallery_of_a_data_set(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Annotations are the instances whatever the threshold, and the other pictures are the gallery."""
    assert tool().main([*words, "--dataset", "shapes_val", "--picture", "1", "--score-threshold", "1"]) == 0
    line = capsys.readouterr().out.splitlines()[-2]
    assert len(re.findall(r"% of \d+\.png", line)) == 2 and "other detections with its mask: 0;" in line


@pytest.mark.parametrize(
    "more,message",
    [
        (["--image", "PHOTO"], "no other picture"),
        (["--image", "PHOTO", "--gallery", "PHOTO", "OTHER", "--instance", "99"], "numbered from 0"),
        (["--image", "TEXT", "--gallery", "OTHER"], "cannot be read"),
        (["--image", "PHOTO", "--gallery", "EMPTY"], "No image in"),
        (["--dataset", "shapes_val", "--picture", "7"], "has 3 pictures with an instance"),
        (["--image", "PHOTO", "--gallery", "OTHER", "--opts", "MODEL.META_ARCHITECTURE", "MaskFormer"], "IUQ twin"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    (tmp_path / "TEXT").write_text("no image")
    (tmp_path / "EMPTY").mkdir()
    write_photo(tmp_path / "a.png", (40, 50), 0).rename(tmp_path / "PHOTO")
    write_photo(tmp_path / "b.png", (40, 50), 1).rename(tmp_path / "OTHER")
    places = ("TEXT", "EMPTY", "PHOTO", "OTHER")
    assert tool().main([*words, *(str(tmp_path / word) if word in places else word for word in more)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and message in error
