"""Paths of DATASETS.REGISTER may name environment variables: the data sets below $ADET_IUQ_DATA."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from adet_iuq.config import load_config
from adet_iuq.data import load_dataset, register_datasets
from adet_iuq.data.registration.datasets import source_of
from adet_iuq.errors import UserError
from helpers.data_folder import DATA
from helpers.golden import REPOSITORY

Writer = Callable[..., tuple[str, str, str]]


def below(variable: str, entry: tuple[str, str, str]) -> list[str]:
    """The entry of DATASETS.REGISTER with its JSON file and images named below `variable`."""
    name, json_file, root = entry
    folder = os.path.commonpath([json_file, root])
    return [name, *(path.replace(folder, variable) for path in (json_file, root))]


@pytest.mark.parametrize("variable", ["$ADET_IUQ_DATA", "${ADET_IUQ_DATA}"])
def test_variables_are_expanded_and_the_config_keeps_them(
    registered: CfgNode, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    name, json_file, root = registered.DATASETS.REGISTER[0]
    monkeypatch.setenv("ADET_IUQ_DATA", os.path.commonpath([json_file, root]))
    registered.DATASETS.REGISTER = [below(variable, (name, json_file, root))]
    register_datasets(registered)
    assert source_of(name) == (json_file, root, False) and len(load_dataset(name)) == 3
    assert registered.DATASETS.REGISTER[0][1].startswith(variable)


def test_a_variable_that_is_not_set_matters_once_the_data_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADET_IUQ_DATA", raising=False)
    cfg = load_config(str(REPOSITORY / "configs/CondInst/R18_nuclei.yaml")).cfg
    wanted = r"(?s)nuclei_train.*set ADET_IUQ_DATA to the folder that holds nuclei/train\.json, see datasets/README\.md"
    with pytest.raises(UserError, match=wanted):
        register_datasets(cfg)
    assert "nuclei_train" not in DatasetCatalog
    cfg.DATASETS.REGISTER = [["not_used", "$ADET_IUQ_DATA/a.json", "$ADET_IUQ_DATA/a"]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("shapes_val",)
    register_datasets(cfg)


@pytest.mark.skipif(not (DATA / "nuclei").exists(), reason="needs $ADET_IUQ_DATA/nuclei")
def test_the_nuclei_recipe_finds_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADET_IUQ_DATA", str(DATA))
    register_datasets(load_config(str(REPOSITORY / "configs/CondInst/R18_nuclei.yaml")).cfg)
    for name, count in (("nuclei_train", 160), ("nuclei_val", 50)):
        records = load_dataset(name)
        assert len(records) == count and Path(records[0]["file_name"]).is_file()
