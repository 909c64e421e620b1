"""What the page shows, without a page: small random models, real pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from adet_iuq.errors import UserError
from adet_iuq.visualization.query_maps import num_sharing
from adet_iuq.visualization.query_models import QueryModel, inference_config
from adet_iuq.web.viewer import Entry, Shown, Viewer
from helpers.query_run import SIDE, query_runs, write_photo


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return query_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def viewer(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Viewer:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(runs[0].parent / "cache"))
    config = str(runs[0] / "config.yaml")
    return Viewer(lambda name, weights: QueryModel(name, inference_config(config, weights, [])))


@pytest.fixture
def chosen(runs: tuple[Path, Path]) -> dict[str, str]:
    iuq, base = runs
    return {"base": str(base / "model_final.pth"), "IUQ": str(iuq / "model_final.pth")}


def photos(folder: Path) -> list[Entry]:
    sizes = ((80, 120), (120, 80), (60, 60))
    return [Entry(write_photo(folder / f"{n}.png", size, n), f"photo {n}") for n, size in enumerate(sizes)]


def test_a_click_is_answered_by_both_models(viewer: Viewer, chosen: dict[str, str], tmp_path: Path) -> None:
    first, *others = photos(tmp_path)
    shown = viewer.detect(chosen, first, 0.0)
    masks = viewer.masks(shown)
    assert list(masks) == list(shown.found) == ["base", "IUQ"] and len(shown.found["IUQ"])
    factor = -(-480 // SIDE)
    assert masks["IUQ"].shape == (factor * SIDE, factor * SIDE * 120 // 80, 3)
    y, x = shown.found["IUQ"].pred_masks[0].nonzero()[0].tolist()
    instance = viewer.instance_at(shown, "IUQ", (factor * x + 1, factor * y + 1))
    assert instance is not None
    answer = viewer.ask(shown, "IUQ", instance, others)
    assert list(answer.pictures) == ["base", "IUQ"]
    assert not np.array_equal(answer.pictures["base"], answer.pictures["IUQ"])
    sharing = num_sharing(shown.found["IUQ"], shown.found["IUQ"].pred_masks[instance])
    assert "% of 2 other pictures" in answer.texts["IUQ"]
    assert answer.texts["IUQ"].endswith(f"other detections with its mask: {sharing}")


def test_the_smallest_instance_at_a_place_is_meant(viewer: Viewer, chosen: dict[str, str], tmp_path: Path) -> None:
    entry = photos(tmp_path)[2]
    found = Instances((SIDE, SIDE))
    found.pred_masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    found.pred_masks[0, :, :50], found.pred_masks[1, :20, 30:50] = True, True
    shown = Shown(entry, chosen, {"IUQ": found})
    places = [(35 * 5, 10 * 5), (35 * 5, 40 * 5), (60 * 5, 10 * 5), (50 * 5 - 1, 20 * 5 - 1), (5 * SIDE, 5 * SIDE)]
    assert [viewer.instance_at(shown, "IUQ", place) for place in places] == [1, 0, None, 1, None]


def test_one_model_alone(viewer: Viewer, chosen: dict[str, str], tmp_path: Path) -> None:
    first, *_ = photos(tmp_path)
    shown = viewer.detect({"IUQ": chosen["IUQ"]}, first, 0.0)
    answer = viewer.ask(shown, "IUQ", 0, [])
    assert list(answer.pictures) == ["IUQ"] and "other pictures" not in answer.texts["IUQ"]
    assert viewer.models(chosen)[1] is viewer.models(chosen)[1]


def test_files_are_refused_by_the_name_they_go_by(viewer: Viewer, chosen: dict[str, str], tmp_path: Path) -> None:
    """The content decides, and no place on this machine is told."""
    (tmp_path / "notes.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(photos(tmp_path)[0].path.read_bytes()[:60])
    for name, message in (("notes.png", "no picture"), ("cut.png", "cannot be read"), ("gone.png", "does not exist")):
        with pytest.raises(UserError, match=f"{name} .*{message}") as caught:
            viewer.read(chosen, Entry(tmp_path / name, name))
        assert str(tmp_path) not in str(caught.value)
