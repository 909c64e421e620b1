"""Exit codes and words of `adet-iuq check`."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adet_iuq.commands import check
from helpers.folders import save_image, write_coco


@pytest.fixture
def json_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound data set of one image that lies beside its JSON file."""
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "segmentation": [[0, 0, 5, 0, 5, 5]]}
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps(content))
    return path


def test_sound(json_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--json", str(json_file)]) == 0
    assert "1 images, 1 annotations, 1 of them usable" in capsys.readouterr().out


def test_missing_image_by_json_and_by_config(json_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (json_file.parent / "a.png").unlink()
    name = f"tool_{json_file.parent.name}"
    entry = f"[['{name}', '{json_file}', '{json_file.parent}']]"
    opts = ["DATASETS.REGISTER", entry, "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", "()"]
    for arguments in (["--json", str(json_file), "--image-root", str(json_file.parent)], opts):
        assert check.main(arguments) == 1
        assert "FATAL: missing image (1). Put the files there" in capsys.readouterr().out


def test_data_sets_by_name(json_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--dataset", "shapes_val", "DATASETS.SHAPES.SIZE", "64", "DATASETS.SHAPES.NUM_VAL", "2"]) == 0
    assert "2 images" in capsys.readouterr().out
    assert check.main(["--dataset", "coco_2017_trian"]) == 1
    assert "Did you mean coco_2017_train" in capsys.readouterr().err


def test_cut_and_missing_files(json_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file.write_text(json_file.read_text()[:100])
    assert check.main(["--json", str(json_file), "--no-image-sizes"]) == 1
    assert "is cut off at character 100" in capsys.readouterr().out
    assert check.main(["--json", "/no/such/file.json"]) == 1
    assert check.main(["DATASETS.TRAIN", "('no_such_set',)"]) == 1
    assert "'no_such_set' is not known" in capsys.readouterr().err


def test_usage() -> None:
    with pytest.raises(SystemExit) as caught:
        check.main([])
    assert caught.value.code == 2


def test_folders(json_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / f"fruit_{tmp_path.name}"
    for split in ("train", "valid"):
        write_coco(folder / split / "_annotations.coco.json", folder / split, ["a.jpg"])
    assert check.main(["--folder", str(folder)]) == 0
    out = capsys.readouterr().out
    assert (
        f"{folder.name}_val: {folder}/valid/_annotations.coco.json, images in {folder}/valid (1 images, 2 annot" in out
    )
    assert out.count("=> can be used") == 2
    (folder / "valid/a.jpg").rename(folder / "valid/b.jpg")
    (folder / "train/a.jpg").rename(folder / "train/a.JPG")
    (folder / "valid/_annotations.coco.json").write_text((folder / "valid/_annotations.coco.json").read_text() + " ")
    assert check.main(["--folder", str(folder)]) == 1
    assert "names images such as 'a.jpg', which lie in none of the folders" in capsys.readouterr().err
    save_image(folder / "valid/a.jpg")
    assert check.main(["--folder", str(folder)]) == 0
    assert "a.jpg is a.JPG on the disk, which differs in the suffix's case (image id 1)" in capsys.readouterr().out
    assert check.main(["--folder", str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    for arguments in (["--json", str(folder)], ["--json", str(json_file), "--folder", str(folder)]):
        with pytest.raises(SystemExit):
            check.main(arguments)
    assert f"{folder} is a folder: give it as --folder" in capsys.readouterr().err


def test_sets_of_a_folder_must_have_the_same_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / f"fruit_{tmp_path.name}"
    for split in ("train", "valid"):
        write_coco(folder / split / "_annotations.coco.json", folder / split, ["a.jpg"])
    file = folder / "valid/_annotations.coco.json"
    file.write_text(file.read_text().replace('"pear"', '"Pear"'))
    assert check.main(["--folder", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "have different classes: the latter lacks pear and adds Pear" in out and out.count("=> can be used") == 2


@pytest.mark.parametrize("path,root", [("/ann.json", "/"), ("ann.json", "."), ("a/ann.json", "a")])
def test_images_lie_beside_the_file(path: str, root: str, json_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(json_file.parent)
    (report,), _ = check.check(check.parse_arguments(["--json", path]))
    assert report.image_root == root


def test_a_name_that_no_terminal_can_show_is_escaped(json_file: Path) -> None:
    json_file.write_text(json_file.read_text().replace("a.png", "\\ud800.png"))
    (report,), _ = check.check(check.parse_arguments(["--json", str(json_file)]))
    assert report.fatal and "\\ud800.png" in report.text()
    assert report.text().encode("utf-8")
