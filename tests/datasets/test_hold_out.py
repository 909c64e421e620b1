"""A part of a data set held out at random: each image in one part, the same choice for a seed, about the wanted share."""

import json
from pathlib import Path
from typing import Any

import pytest
from hold_out import main, split


def made_up(count: int) -> dict[str, Any]:
    """A data set of `count` images with two instances each; the second category shows in the first image alone."""
    annotations = [
        {"id": 2 * number + part, "image_id": number, "category_id": 2 if number == 1 and part else 1}
        for number in range(1, count + 1)
        for part in range(2)
    ]
    categories = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "dust"}]
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(1, count + 1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def test_each_image_is_in_one_part_with_its_annotations() -> None:
    data = made_up(20)
    parts = split(data, 0.2, 0)
    ids = {name: [image["id"] for image in part["images"]] for name, part in parts.items()}
    assert len(ids["val"]) == 4 and sorted(ids["train"] + ids["val"]) == list(range(1, 21))
    for name, part in parts.items():
        assert [a["image_id"] for a in part["annotations"]] == [i for i in ids[name] for _ in range(2)]
        assert part["categories"] == data["categories"]  # class indices must not differ between the parts


def test_the_seed_decides() -> None:
    data = made_up(20)
    assert split(data, 0.2, 3) == split(data, 0.2, 3)
    assert len({str(split(data, 0.2, seed)["val"]["images"]) for seed in range(4)}) > 1


@pytest.mark.parametrize(("share", "val"), [(0.01, 1), (0.99, 2), (0.5, 2)])
def test_no_part_is_empty(share: float, val: int) -> None:
    assert len(split(made_up(3), share, 0)["val"]["images"]) == val


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(SystemExit, match="at least two images"):
        split(made_up(1), 0.5, 0)


def test_both_files_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "all.json"
    source.write_text(json.dumps(made_up(10)))
    main(["--json", str(source), "--output", str(tmp_path / "parts")])
    assert json.loads((tmp_path / "parts/train.json").read_text()) == split(made_up(10), 0.2, 0)["train"]
    assert "val.json: 2 images, 4 annotations" in capsys.readouterr().out


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "20"])
def test_a_share_that_is_none_is_refused(share: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--json", str(tmp_path), "--share", share, "--output", str(tmp_path)])
    assert "is no share above 0 and below 1" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--json", str(tmp_path / "none.json"), "--output", str(tmp_path)])
    assert "none.json does not exist" in capsys.readouterr().err
