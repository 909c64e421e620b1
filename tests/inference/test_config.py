"""What names a model: files, recipes, folders of runs."""

from pathlib import Path

import pytest

from adet_iuq.errors import UserError
from adet_iuq.inference import find_config, inference_config
from helpers.golden import REPOSITORY


@pytest.mark.parametrize(
    "name", ["CondInst/R50_1x_iuq.yaml", "CondInst/R50_1x_iuq", "configs/CondInst/R50_1x_iuq.yaml"]
)
def test_recipes_have_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, weights = find_config(name, "w.pth")
    assert Path(config) == REPOSITORY / "configs/CondInst/R50_1x_iuq.yaml" and weights == "w.pth"


def test_a_file_goes_before_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("MODEL: {}")
    assert find_config("quickstart.yaml", "w.pth") == ("quickstart.yaml", "w.pth")


def test_folders_of_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder of a run: it has no config\.yaml"):
        find_config(str(tmp_path))
    (tmp_path / "config.yaml").write_text("MODEL: {}")
    with pytest.raises(UserError, match="no other weights either"):
        find_config(str(tmp_path))
    (tmp_path / "model_0000099.pth").touch()
    with pytest.raises(
        UserError, match=r"has no model_final\.pth: the run is not finished\. It has model_0000099\.pth"
    ):
        find_config(str(tmp_path))
    assert find_config(str(tmp_path), "w.pth") == (str(tmp_path / "config.yaml"), "w.pth")
    (tmp_path / "model_final.pth").touch()
    assert find_config(str(tmp_path)) == (str(tmp_path / "config.yaml"), str(tmp_path / "model_final.pth"))


def test_wrong_names() -> None:
    with pytest.raises(UserError, match=r"Did you mean .*CondInst/R50_1x\.yaml"):
        find_config("CondInst/R50_x1.yaml", "w.pth")
    with pytest.raises(UserError, match="No weights: name the weights"):
        find_config("quickstart.yaml")


def test_nothing_is_downloaded_for_weights_that_are_there(tmp_path: Path) -> None:
    config, weights = str(REPOSITORY / "configs/quickstart.yaml"), str(tmp_path / "model_final.pth")
    assert not inference_config(config, weights, ["MODEL.TIMM.PRETRAINED", "True"]).MODEL.TIMM.PRETRAINED
