"""The reader of images: which way round, how bright, and what it says."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import detection_utils
from detectron2.utils import logger
from PIL import Image, ImageOps

from adet_iuq.data.images.facts import image_facts
from adet_iuq.data.images.reading import read_image, read_record, unreadable
from adet_iuq.errors import UserError

HEIGHT, WIDTH = 30, 40
SUFFIXES = ("jpg", "png", "tif")
UPRIGHT = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, orientation: int | None = None) -> Path:
    image, exif = Image.fromarray(pixels), Image.Exif()
    if orientation:
        exif[274] = orientation
    image.save(path, exif=exif)
    return path


def claims(path: Path, height: int, width: int, *segmentations: Any) -> dict[str, Any]:
    annotations = [{"segmentation": one} for one in segmentations]
    return {"file_name": str(path), "height": height, "width": width, "annotations": annotations}


def square(side: float) -> list[list[float]]:
    return [[0, 0, side, 0, side, side, 0, side]]


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_ordinary_images_are_those_of_detectron2(tmp_path: Path, mode: str, image_format: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(UPRIGHT).convert(mode).save(path)
    expected = detection_utils.read_image(str(path), image_format)
    assert np.array_equal(read_image(path, image_format), expected)
    assert np.array_equal(read_image(path, image_format, claimed_size=(HEIGHT, WIDTH)), expected)


@pytest.mark.parametrize(("suffix", "orientation"), itertools.product(SUFFIXES, range(1, 9)))
def test_every_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = UPRIGHT
    path = save(tmp_path / f"a.{suffix}", stored, orientation)
    plain = read_image(save(tmp_path / f"plain.{suffix}", stored), "RGB")
    with Image.open(save(tmp_path / "a.png", stored, orientation)) as reference:  # Pillow turns a TIFF by itself
        size = ImageOps.exif_transpose(reference).size
    facts = image_facts(path)
    assert (facts.orientation, facts.stored_size, facts.upright_size) == (orientation, (HEIGHT, WIDTH), size[::-1])
    exif = Image.Exif()
    exif[274] = orientation
    turned = Image.fromarray(plain)
    turned.info["exif"] = exif.tobytes()
    upright = np.asarray(ImageOps.exif_transpose(turned))
    assert np.array_equal(read_image(path, "RGB"), upright)
    assert np.array_equal(read_image(path, "RGB", claimed_size=facts.upright_size), upright)
    if facts.upright_size != facts.stored_size:
        assert np.array_equal(read_image(path, "RGB", claimed_size=facts.stored_size), plain)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log of a process that has not said anything yet."""
    monkeypatch.setattr(logger, "_LOG_COUNTER", Counter())
    return caplog


def test_a_size_that_does_not_tell_is_told_once(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.png"):
        pixels, _ = read_record(claims(save(tmp_path / name, UPRIGHT, 3), HEIGHT, WIDTH), "RGB")
        assert np.array_equal(pixels, UPRIGHT[::-1, ::-1])
    assert told.text.count("before or after") == 1 and "a.png" in told.text


def test_swapped_sides(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", UPRIGHT)
    rle = mask_util.encode(np.asfortranarray(UPRIGHT[..., 0]))
    for annotations in ((), (square(30),), (square(30.5), rle), (None, [[1, 2]])):
        pixels, record = read_record(claims(path, WIDTH, HEIGHT, *annotations), "RGB")
        assert np.array_equal(pixels, UPRIGHT) and (record["height"], record["width"]) == (HEIGHT, WIDTH)
    transposed = mask_util.encode(np.asfortranarray(UPRIGHT[..., 0].T))
    for annotation in (square(38), transposed):
        with pytest.raises(
            UserError, match=r"a\.png is 40 x 30 .* says 30 x 40, and its annotations do not fit into it"
        ):
            read_record(claims(path, WIDTH, HEIGHT, square(20), annotation), "RGB")


@pytest.mark.parametrize("orientation", [1, 6])
def test_another_size_is_refused(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "a.png", UPRIGHT, orientation)
    words = "40 x 30 pixels as stored, 30 x 40 upright" if orientation == 6 else "40 x 30 pixels"
    with pytest.raises(UserError, match=rf"a\.png is {words} \(width x height\), but its data set says 31 x 40"):
        read_record(claims(path, 40, 31), "RGB")
    assert unreadable(claims(path, 40, 31)) is not None and unreadable({"file_name": str(path)}) is None


def ramp(dtype: str, low: float, high: float) -> np.ndarray:
    values = np.linspace(low, high, HEIGHT * WIDTH, dtype=np.float64).reshape(HEIGHT, WIDTH)
    return values.astype(dtype) if dtype == "float32" else values.round().astype(dtype)


DEEP = [
    ("a.png", "uint16", 0, 2**16 - 1, "16-bit unsigned integer"),
    ("a.tif", "uint16", 0, 2**16 - 1, "16-bit unsigned integer"),
    ("a.pgm", "uint16", 0, 2**16 - 1, "16-bit unsigned integer"),
    ("a.tif", "int32", -(2**31), 2**31 - 1, "32-bit signed integer"),
    ("a.tif", "float32", 0, 1, "32-bit float"),
]


@pytest.mark.parametrize(("name", "dtype", "low", "high", "words"), DEEP)
def test_deep_images(tmp_path: Path, name: str, dtype: str, low: float, high: float, words: str) -> None:
    values = ramp(dtype, low, high)
    path = tmp_path / name
    Image.fromarray(values).save(path)
    assert str(image_facts(path).depth) == words
    expected = np.round((values.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)
    assert len(np.unique(expected)) == 256
    for image_format in ("BGR", "RGB"):
        assert np.array_equal(read_image(path, image_format), expected[..., None].repeat(3, 2))
    assert np.array_equal(read_image(path, "L"), expected[..., None])
    assert np.array_equal(read_image(path, "L", deep_images="image"), expected[..., None])
    with pytest.raises(
        UserError, match=rf"a\.... has one channel of {words} values .* INPUT.DEEP_IMAGES is \"refuse\""
    ):
        read_image(path, deep_images="refuse")
    with pytest.raises(UserError, match=r"INPUT.DEEP_IMAGES is 'none'; it can be 'dtype'"):
        read_image(path, deep_images="none")


@pytest.mark.parametrize(("bits", "kind", "high"), [(16, 2, 2**15 - 1), (32, 1, 2**32 - 1)])
def test_types_that_pillow_hides(tmp_path: Path, bits: int, kind: int, high: int) -> None:
    """Signed 16 bits and unsigned 32 bits, which Pillow reads and does not write."""
    unsigned, signed = {16: ("<u2", "<i2"), 32: ("<u4", "<i4")}[bits]
    values = ramp(unsigned if kind == 1 else signed, 0, high)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, bits, kind))
    low = 0 if kind == 1 else -high - 1
    expected = np.round((values.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)
    assert np.array_equal(read_image(path, "L")[..., 0], expected)


def tiff(values: np.ndarray, bits: int, kind: int) -> bytes:
    """An uncompressed little-endian TIFF file: header, one directory, pixels."""
    height, width = values.shape
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        273: 0,
        277: 1,
        278: height,
        279: values.nbytes,
        339: kind,
    }
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = start
    entries = b"".join(np.array([tag, 4], "<u2").tobytes() + np.array([1, tags[tag]], "<u4").tobytes() for tag in tags)
    head = b"II*\0" + np.array([8], "<u4").tobytes() + np.array([len(tags)], "<u2").tobytes()
    return head + entries + bytes(4) + values.tobytes()


def test_deep_images_by_their_own_range(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.array([[-3.0, 1.0], [np.nan, 5.0], [np.inf, -np.inf]], dtype=np.float32)
    Image.fromarray(values).save(path)
    assert read_image(path, "L", deep_images="image")[..., 0].tolist() == [[0, 128], [0, 255], [255, 0]]
    with pytest.raises(UserError, match=r"values from -3 to 5; floats .* INPUT.DEEP_IMAGES image"):
        read_image(path)
    for constant in (np.nan, 7.0):
        Image.fromarray(np.full((2, 3), constant, np.float32)).save(path)
        assert not read_image(path, "L", deep_images="image").any()


def test_deep_images_are_turned_too(tmp_path: Path) -> None:
    values = ramp("uint16", 0, 2**16 - 1)
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"a.{suffix}", values, 6)
        plain = read_image(save(tmp_path / f"b.{suffix}", values))
        assert np.array_equal(read_image(path), np.rot90(plain, -1))
        assert np.array_equal(read_image(path, claimed_size=(HEIGHT, WIDTH)), plain)


def test_a_narrow_range_is_told(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    Image.fromarray(ramp("uint16", 100, 60000)).save(tmp_path / "a.png")
    read_image(tmp_path / "a.png")
    assert not told.text
    Image.fromarray(ramp("uint16", 100, 4000)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").max() == 16
    assert "from 100 to 4000" in told.text


def test_large_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", UPRIGHT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    words = r"a\.png is larger than the limit of 1000 pixels .*1200 pixels.* ADET_IUQ_MAX_PIXELS"
    for read in (read_image, image_facts):
        with pytest.raises(UserError, match=words):
            read(path)
    monkeypatch.setenv("ADET_IUQ_MAX_PIXELS", "1200")
    assert np.array_equal(read_image(path, "RGB"), UPRIGHT)
    monkeypatch.setenv("ADET_IUQ_MAX_PIXELS", "many")
    with pytest.raises(UserError, match="ADET_IUQ_MAX_PIXELS is 'many'"):
        read_image(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, r"Image .*a\.png does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), r"Image .*a\.png cannot be read"),
        (lambda path: path.write_bytes(b""), r"Image .*a\.png cannot be read"),
    ],
)
def test_files_that_are_no_images(tmp_path: Path, damage: Callable[[Path], Any], words: str) -> None:
    path = save(tmp_path / "a.png", UPRIGHT)
    damage(path)
    with pytest.raises(UserError, match=words) as caught:
        read_image(path)
    assert "SKIP_CORRUPT_IMAGES" not in str(caught.value)
    with pytest.raises(UserError, match=words) as caught:
        read_record({"file_name": str(path)}, "BGR")
    assert "SKIP_CORRUPT_IMAGES" not in str(caught.value)  # it is for the training loader to say: nobody else skips any
