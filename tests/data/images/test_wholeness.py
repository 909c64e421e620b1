"""Cut-off image files are found without decoding whole ones."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from adet_iuq.data.images import wholeness
from adet_iuq.data.images.facts import image_facts
from adet_iuq.data.images.reading import read_image
from adet_iuq.data.images.wholeness import check_whole
from adet_iuq.errors import UserError

PIXELS = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def saved(folder: Path, suffix: str) -> Path:
    path = folder / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    return path


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif"])
def test_a_file_cut_off_behind_its_header(tmp_path: Path, suffix: str, share: float) -> None:
    path = saved(tmp_path, suffix)
    check_whole(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=rf"a\.{suffix} cannot be read"):
        check_whole(path)
    with pytest.raises(UserError, match=rf"a\.{suffix} cannot be read"):  # what the check foretells
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_only_an_unusual_end_is_decoded(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, suffix)
    opener = Mock(wraps=wholeness.open_image)
    monkeypatch.setattr(wholeness, "open_image", opener)
    check_whole(path)
    opener.assert_not_called()
    path.write_bytes(path.read_bytes() + b"\0\0written behind")  # as some cameras do
    check_whole(path)
    opener.assert_called_once()


@pytest.mark.parametrize("orientation", [None, 1])
def test_damaged_pixels_of_a_png_are_not_taken_for_a_damaged_exif_entry(
    tmp_path: Path, orientation: int | None
) -> None:
    """With or without an entry before the pixels."""
    path, exif = tmp_path / "a.png", Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        image_facts(path)
