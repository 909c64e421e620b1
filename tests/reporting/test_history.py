import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adet_iuq.reporting.history import Series, iterations_done, panels, read_history


def written(folder: Path, *lines: Any) -> dict[str, dict[int, float]]:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "metrics.json").write_text(text)
    return read_history(folder)


def test_a_resumed_run_is_one_row_of_numbers(tmp_path: Path) -> None:
    history = written(
        tmp_path,
        {"iteration": 19, "total_loss": 3.0, "lr": 0.1},
        {"iteration": 39, "total_loss": 2.0},
        {"iteration": 39, "total_loss": 2.5},  # once more, after the resume
        '{"iteration": 45, "total_l',  # killed here
        {"iteration": 59, "total_loss": 1.0},
    )
    assert history == {"total_loss": {19: 3.0, 39: 2.5, 59: 1.0}, "lr": {19: 0.1}}


def test_what_is_no_number_is_passed_over(tmp_path: Path) -> None:
    assert written(tmp_path, {"iteration": 1, "a": float("nan"), "b": float("inf"), "c": 1}, [], {"a": 1}, "null") == {
        "c": {1: 1.0}
    }


def test_no_file(tmp_path: Path) -> None:
    assert read_history(tmp_path) == {} and panels({}) == []


def test_which_diagrams_there_are() -> None:
    names = (
        "time lr loss_mask total_loss loss_mask_0 loss_mask_12 loss_cls iuq/fire_rate iuq/gradient_ratio segm/AP bbox/AP "
        "segm/APs segm/AP-cat"
    )
    found = panels({name: {0: 1.0, 9: 2.0} for name in names.split()})
    assert [panel.title for panel in found] == [
        "AP", "total_loss", "loss_cls", "loss_mask", "Firing rate on pixels of other images",
        "Gradient ratio: inter-scene to mask loss", "Learning rate",
    ]  # fmt: skip
    assert [one.label for one in found[0].series] == ["segm", "bbox"]
    assert found[1].series[0].iterations.tolist() == [1, 10]


def test_ap_of_several_sets() -> None:
    (panel,) = panels({"val/segm/AP": {9: 1.0}, "val_mosaic/segm/AP": {9: 2.0}, "a/b/bbox/AP": {9: 3.0}})
    assert [one.label for one in panel.series] == ["val segm", "val_mosaic segm", "a/b bbox"]


def test_smooth_line_is_a_running_mean() -> None:
    values = np.random.default_rng(0).normal(size=100)
    smooth = Series("", np.arange(100), values).smooth
    assert smooth[50] == pytest.approx(values[48:53].mean()) and smooth[0] == pytest.approx(values[:3].mean())
    few = Series("", np.arange(5), values[:5]).smooth
    assert few == pytest.approx(values[:5])


@pytest.mark.parametrize(("values", "logarithmic"), [((1, 0.001), True), ((1, 0.5), False), ((1, 0), False)])
def test_axis_of_a_series_that_spans_much(values: tuple[float, float], logarithmic: bool) -> None:
    (panel,) = panels({"loss": dict(enumerate(values))})
    assert panel.logarithmic == logarithmic


def test_the_evaluation_after_the_last_iteration_stands_at_it() -> None:
    history = {"total_loss": {0: 1.0, 11: 0.5}, "segm/AP": {5: 1.0, 12: 2.0}}
    assert iterations_done(history) == 12 and iterations_done({}) == 0
    assert panels(history)[0].series[0].iterations.tolist() == [6, 12]
