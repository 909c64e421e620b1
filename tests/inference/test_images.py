"""The files that words of a command line stand for."""

from pathlib import Path

import pytest

from adet_iuq.errors import UserError
from adet_iuq.inference.images import find_files


def test_files_folders_and_patterns_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.txt", "d.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "e[1].png").touch()
    found = find_files([tmp_path / "c.txt", tmp_path, str(tmp_path / "?.png"), tmp_path / "e[1].png"])
    assert [path.name for path in found] == ["c.txt", "a.JPG", "b.png", "e[1].png"]
    assert [path.name for path in find_files([tmp_path], (".mp4",))] == ["d.mp4"]


def test_nothing_is_an_error(tmp_path: Path) -> None:
    """Also beside something: a pattern with a typing error is not dropped in silence."""
    (tmp_path / "a.txt").touch()
    for word in (str(tmp_path), str(tmp_path / "*.png")):
        for words in ([word], [str(tmp_path / "a.txt"), word]):
            with pytest.raises(UserError) as error:
                find_files(words)
            assert str(error.value).startswith(f"No image in {word}. Known suffixes: .jpg")
    with pytest.raises(UserError, match="empty list"):
        find_files([])


def test_the_home_folder_has_its_short_name_in_patterns_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves quoted words as they are."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").touch()
    for word in ("~", "~/a.png", "~/*.png"):
        assert find_files([word]) == [tmp_path / "a.png"], word
