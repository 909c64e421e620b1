"""A run's classes are those of its weights: by name, before anything is trained or evaluated."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from adet_iuq.engine import setup
from adet_iuq.engine.description import read_class_names, trained_classes
from adet_iuq.errors import UserError
from helpers.toy_segmenter import toy_args, train

Options = Callable[..., dict[str, Any]]


@pytest.fixture
def data(tmp_path: Path) -> Options:
    """Options for a data set of one image whose classes have these names, in the order of their ids."""

    def write(*names: str) -> dict[str, Any]:
        Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
        polygon = [4, 4, 24, 4, 24, 24, 4, 24]
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": [4, 4, 20, 20]}
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
            "categories": [{"id": number + 1, "name": name} for number, name in enumerate(names)],
            "annotations": [{**annotation, "segmentation": [polygon]}],
        }
        name = f"{tmp_path.name}_{'_'.join(names)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        used = f"('{name}',)"
        register = f"[['{name}', '{path}', '{tmp_path}']]"
        return {"DATASETS__REGISTER": register, "DATASETS__TRAIN": used, "DATASETS__TEST": used, "SOLVER__MAX_ITER": 1}

    return write


def classes_of(args: Any) -> list[str]:
    cfg = setup(args)
    return list(MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes)


def test_a_resumed_run_and_an_evaluation_go_by_name(tmp_path: Path, data: Options) -> None:
    output = tmp_path / "output"
    train(toy_args(output, **data("dog", "cat")))
    assert read_class_names(str(output / "model_final.pth")) == {
        "thing_classes": ["dog", "cat"],
        "category_ids": {0: 1, 1: 2},
    }
    weights: dict[str, Any] = {"MODEL__WEIGHTS": output / "model_final.pth"}
    resumed = toy_args(output, resume=True, **data("cat", "dog"))
    evaluated = toy_args(tmp_path / "other", **weights, **data("cat", "dog"))
    evaluated.eval_only = True
    started = toy_args(tmp_path / "other", **weights, **data("cat", "dog"))
    for args in (resumed, evaluated, started):
        assert classes_of(args) == ["dog", "cat"]
    assert classes_of(toy_args(tmp_path / "other", **data("cat", "dog"))) == ["cat", "dog"]


@pytest.mark.parametrize("eval_only", [False, True])
def test_another_order_is_said_on_the_screen_and_in_the_log(
    tmp_path: Path, data: Options, capsys: pytest.CaptureFixture[str], eval_only: bool
) -> None:
    torch.save({}, tmp_path / "a.pth")
    (tmp_path / "classes.json").write_text('{"thing_classes": ["dog", "cat"], "category_ids": {"0": 1, "1": 2}}')
    args = toy_args(tmp_path / "output", MODEL__WEIGHTS=tmp_path / "a.pth", **data("cat", "dog"))
    args.eval_only = eval_only
    setup(args)
    words = "lists its classes in another order than the weights"
    assert words in capsys.readouterr().out and words in (tmp_path / "output" / "log.txt").read_text()


def test_other_names_are_refused_but_for_a_training_that_starts_from_the_weights(tmp_path: Path, data: Options) -> None:
    output = tmp_path / "output"
    train(toy_args(output, **data("dog", "cat")))
    weights: dict[str, Any] = {"MODEL__WEIGHTS": output / "model_final.pth"}
    evaluated = toy_args(tmp_path / "other", **weights, **data("dog", "cow"))
    evaluated.eval_only = True
    for args in (evaluated, toy_args(output, resume=True, **data("dog", "cow"))):
        with pytest.raises(UserError, match="different classes: the latter lacks cat and adds cow"):
            setup(args)
    assert classes_of(toy_args(tmp_path / "other", **weights, **data("dog", "cow"))) == ["dog", "cow"]


def test_a_resume_without_a_checkpoint_starts_anew(tmp_path: Path, data: Options) -> None:
    train(toy_args(tmp_path / "output", **data("dog", "cat")))
    (tmp_path / "output" / "last_checkpoint").unlink()
    assert classes_of(toy_args(tmp_path / "output", resume=True, **data("dog", "cow"))) == ["dog", "cow"]


@pytest.mark.parametrize("text", ["[]", "{", '{"thing_classes": 5, "category_ids": {}}', '["dog"]'])
def test_a_file_of_another_program_is_passed_over(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "classes.json").write_text(text)
    torch.save({}, tmp_path / "a.pth")
    assert trained_classes(str(tmp_path / "a.pth"), binding=True) is None
    assert "classes.json holds no class names" in caplog.text
