"""The benchmark runs and prints a line for each number of images and backend, with the parts of the time."""

from pathlib import Path

import benchmark_evaluation
import pytest
from benchmark_evaluation import draw_scene, evaluate, probabilities, write_truth

SIZE = (96, 128)


def test_prints_the_parts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--images", "2", "3", "--objects", "12", "--size", "96", "128"]
    monkeypatch.setattr("sys.argv", ["benchmark_evaluation", *words])
    benchmark_evaluation.main()
    head, *lines = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert head[2:7] == ["pasting", "RLE", "results", "accumulation", "images/s"]
    assert [line[:2] for line in lines] == [["2", "pycocotools"], ["3", "pycocotools"]]
    assert all(float(number) >= 0 for line in lines for number in line[2:])


def test_predictions_lie_where_the_truth_is(tmp_path: Path) -> None:
    """Moved ellipses are found, but not perfectly; all of them would be if they were not moved."""
    scenes = [draw_scene(SIZE, 12, seed) for seed in range(3)]
    write_truth(scenes, SIZE, tmp_path)
    clock, precision = evaluate(scenes, SIZE, "pycocotools", tmp_path)
    assert 20 < precision < 95 and set(clock.seconds) == {"pasting", "RLE", "results", "accumulation"}
    assert probabilities(scenes[0], SIZE).shape == (12, 24, 32)
