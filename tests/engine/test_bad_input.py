"""What train_net.py says, and how it ends, when a user's input is wrong: one message, no traceback, exit code 2."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import adet_iuq
from adet_iuq.engine import argument_parser, launch
from adet_iuq.engine.setup import choose_device
from helpers.toy_segmenter import toy_args, toy_options, train

TOOL = Path(adet_iuq.__file__).parents[1] / "tools" / "train_net.py"


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs train_net.py's main on a command line that must be refused; returns the message."""
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    assert spec is not None and spec.loader is not None
    train_net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train_net)

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            launch(train_net.main, argument_parser().parse_args(list(words)))
        assert exit_.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ") and "Traceback" not in error
        return error

    return run


@pytest.fixture
def own_data(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes a data set of two images, changed by a function, and gives the options that train on it."""

    def write(
        change: Callable[[dict[str, Any]], object] = lambda content: None, text_length: int | None = None
    ) -> list[str]:
        images = tmp_path / "images"
        images.mkdir()
        for name in ("a.png", "b.png"):
            picture = torch.zeros(48, 64, 3, dtype=torch.uint8).numpy()
            __import__("PIL.Image").Image.fromarray(picture).save(images / name)
        content: dict[str, Any] = {
            "images": [{"id": i, "file_name": f"{n}.png", "height": 48, "width": 64} for i, n in enumerate("ab")],
            "categories": [{"id": 5, "name": "thing"}],
            "annotations": [
                {
                    "id": 10 + i,
                    "image_id": i,
                    "category_id": 5,
                    "iscrowd": 0,
                    "area": 400,
                    "bbox": [4, 4, 20, 20],
                    "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]],
                }
                for i in range(2)
            ],
        }
        change(content)
        path = tmp_path / "own.json"
        path.write_text(json.dumps(content)[:text_length])
        register = f"[['own_{tmp_path.name}', '{path}', '{images}']]"
        name = f"('own_{tmp_path.name}',)"
        more = {"DATASETS__REGISTER": register, "DATASETS__TRAIN": name, "DATASETS__TEST": "()"}
        return toy_options(tmp_path / "output", SOLVER__MAX_ITER=2, **more)

    return write


def test_the_sound_data_set_trains(own_data: Callable[..., list[str]]) -> None:
    args = toy_args("unused")
    args.opts = own_data()
    train(args)


def test_misspelt_key(refusal: Callable[..., str]) -> None:
    assert "SOLVER.BASE_LR" in refusal("SOLVER.BASE_LRR", "0.1")


def test_missing_config_file(refusal: Callable[..., str]) -> None:
    assert "nowhere.yaml" in refusal("--config-file", "nowhere.yaml")


def test_missing_image(refusal: Callable[..., str], own_data: Callable[..., list[str]]) -> None:
    options = own_data(lambda content: content["images"][1].update(file_name="gone.png"))
    assert "gone.png" in refusal(*options)


def test_unknown_category(refusal: Callable[..., str], own_data: Callable[..., list[str]]) -> None:
    message = refusal(*own_data(lambda content: content["annotations"][1].update(category_id=77)))
    assert "77" in message and "11" in message


def test_empty_polygon(refusal: Callable[..., str], own_data: Callable[..., list[str]]) -> None:
    assert "11" in refusal(*own_data(lambda content: content["annotations"][1].update(segmentation=[])))


def test_json_cut_off(refusal: Callable[..., str], own_data: Callable[..., list[str]]) -> None:
    message = refusal(*own_data(text_length=250))
    assert "own.json" in message and "cut off" in message


def mixed_up(content: dict[str, Any]) -> None:
    content["images"][1].update(id=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (mixed_up, "two images with one id"),
        (lambda content: content["annotations"][1].update(category_id=77), "category_id 77"),
        (lambda content: content["annotations"].clear(), "no valid instance left"),
        (lambda content: content["images"][1].update(width=65), "b.png is 64 x 48"),
        (lambda content: content["images"][1].update(file_name="gone.png"), "gone.png"),
    ],
)
def test_an_evaluation_refuses_what_a_training_refuses(
    refusal: Callable[..., str], own_data: Callable[..., list[str]], change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    """In the same words, although no weights were given: the check comes first."""
    options = own_data(change)
    message = refusal("--eval-only", *options, "DATASETS.TRAIN", "()", "DATASETS.TEST", trained_set(options))
    assert words in message
    assert "FATAL" in message and message == refusal(*options)


def test_an_evaluation_does_not_look_at_training_sets(
    refusal: Callable[..., str], own_data: Callable[..., list[str]]
) -> None:
    options = own_data(lambda content: content["images"][1].update(file_name="gone.png"))
    message = refusal("--eval-only", *options, "DATASETS.TEST", "()")
    assert "DATASETS.TEST is empty" in message


def trained_set(options: list[str]) -> str:
    return options[options.index("DATASETS.TRAIN") + 1]


def test_checkpoint_of_another_architecture(refusal: Callable[..., str], tmp_path: Path) -> None:
    torch.save({"model": {"detr.class_embed.weight": torch.zeros(3)}}, tmp_path / "detr.pth")
    message = refusal(*toy_options(tmp_path / "output", MODEL__WEIGHTS=tmp_path / "detr.pth"))
    assert "detr.pth" in message and "detr.class_embed.weight" in message


def test_evaluation_needs_weights(refusal: Callable[..., str], tmp_path: Path) -> None:
    assert "MODEL.WEIGHTS" in refusal("--eval-only", *toy_options(tmp_path))


def test_unknown_meta_architecture(refusal: Callable[..., str], tmp_path: Path) -> None:
    message = refusal(*toy_options(tmp_path, MODEL__META_ARCHITECTURE="CondInts"))
    assert '"CondInts" does not exist' in message and "CondInstIUQ" in message


def test_output_folder_that_cannot_be_made(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "OUTPUT_DIR" in refusal(*toy_options(tmp_path / "file" / "output"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_that_is_not_there(refusal: Callable[..., str], tmp_path: Path) -> None:
    assert "MODEL.DEVICE" in refusal(*toy_options(tmp_path, MODEL__DEVICE="cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_the_default_device_falls_back_to_the_cpu() -> None:
    from adet_iuq.config import get_cfg

    cfg = get_cfg()
    assert choose_device(cfg, user_set=False) and cfg.MODEL.DEVICE == "cpu"
    assert not choose_device(cfg, user_set=False)


def test_nothing_written_before_is_lost(
    refusal: Callable[..., str], own_data: Callable[..., list[str]], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    train(toy_args(output, SOLVER__MAX_ITER=2))
    before = contents(output)
    assert {"config.yaml", "classes.json", "model_final.pth", "metrics.json", "results.json"} <= before.keys()
    refusal("--resume", *toy_options(output, SOLVER__MAX_ITER=4, MODEL__META_ARCHITECTURE="CondInst"))
    refusal(*own_data(lambda content: content["images"][1].update(file_name="gone.png")))
    torch.save({"model": {"detr.class_embed.weight": torch.zeros(3)}}, tmp_path / "detr.pth")
    refusal(*toy_options(output, MODEL__WEIGHTS=tmp_path / "detr.pth"))
    refusal("--eval-only", *toy_options(output, MODEL__WEIGHTS=tmp_path / "detr.pth"))
    assert contents(output) == before


def contents(folder: Path) -> dict[str, bytes]:
    """All files directly in a folder but the growing log."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "log.txt"}


def test_the_program_itself_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "OUTPUT_DIRR", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "Error: Config key OUTPUT_DIRR" in done.stderr and "Traceback" not in done.stderr
