"""The public predictor on an oracle: what goes in, what comes out, batches, tiles."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision as sv
import torch
from PIL import Image

from adet_iuq import Predictor
from adet_iuq.engine.loop import precision
from adet_iuq.errors import UserError
from adet_iuq.modeling import Segmenter
from helpers.blob_segmenter import BlobSegmenter, save_blob_run, scene

BLOBS = [(10, 20, 40, 60), (60, 30, 90, 50)]


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, adet_iuq; sys.exit(any(name in sys.modules for name in ('torch', 'detectron2', 'supervision')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ImportError):
        from adet_iuq import Predicator  # type: ignore[attr-defined]  # noqa: F401


def test_one_image_gives_supervisions_detections(predictor: Predictor) -> None:
    image = scene((100, 120), BLOBS)
    found = predictor(image)
    assert isinstance(found, sv.Detections)
    assert found.xyxy.tolist() == [[10, 20, 40, 60], [60, 30, 90, 50]]
    assert isinstance(found.mask, np.ndarray) and found.mask.dtype == bool and found.mask.shape == (2, 100, 120)
    assert np.array_equal(found.mask.any(0), image[:, :, 0] > 0)
    assert found.confidence is not None and found.confidence == pytest.approx([230 / 255] * 2)
    assert found.class_id is not None and found.class_id.tolist() == [0, 0]
    assert list(found.data["class_name"]) == ["disc", "disc"]


def test_an_image_without_objects(predictor: Predictor) -> None:
    found = predictor(np.zeros((50, 70, 3), np.uint8))
    assert isinstance(found, sv.Detections) and len(found) == 0
    assert isinstance(found.mask, np.ndarray) and found.mask.shape == (0, 50, 70)
    assert list(found.data["class_name"]) == [] and found.xyxy.shape == (0, 4)


def test_the_threshold_leaves_out(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "score_threshold", 0.7)
    image = scene((100, 100), BLOBS[:1], value=150) | scene((100, 100), BLOBS[1:])
    assert [len(predictor(one)) for one in (image, image // 2 * 2)] == [1, 1]
    monkeypatch.setattr(predictor, "score_threshold", 0.0)
    assert len(predictor(image)) == 2


def test_paths_arrays_pictures_folders_and_patterns_are_alike(predictor: Predictor, tmp_path: Path) -> None:
    image = scene((100, 120), BLOBS)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "b.png"), image[:, ::-1])
    (tmp_path / "notes.txt").write_text("no image")
    path, turned = tmp_path / "a.png", image[:, :, ::-1]
    ways: list[Any] = [path, str(path), image, Image.fromarray(turned)]
    expected = predictor(image)
    for way in ways:
        assert predictor(way) == expected
    assert predictor(turned, order="RGB") == expected and predictor(turned) != expected  # red instead of blue
    assert predictor(ways) == [expected] * 4
    both = predictor(tmp_path)
    assert isinstance(both, list) and both[0] == expected and both[1].xyxy.tolist()[0] == [80, 20, 110, 60]
    assert predictor(str(tmp_path / "[ab].png")) == both
    assert predictor([]) == []


def test_grey_alpha_deep_and_turned_pictures(predictor: Predictor, tmp_path: Path) -> None:
    bright = scene((100, 120), BLOBS)[:, :, 0]
    boxes = [[10, 20, 40, 60], [60, 30, 90, 50]]
    grey = Image.fromarray(bright)
    deep = Image.fromarray(bright.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(bright)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    ways: list[Any] = [bright, bright[:, :, None], grey, grey.convert("RGBA"), grey.convert("P"), deep]
    for way in [*ways, tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg")]:
        found = predictor(way)
        assert isinstance(found, sv.Detections)
        assert sorted(found.xyxy.tolist()) == boxes, way


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((5, 5, 3), np.float32), "float32 is no image"),
        (np.zeros((5, 5, 4), np.uint8), r"\(5, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), "with pixels"),
        (7, "A int is no image"),
        ("/no/where.png", "/no/where.png does not exist"),
    ],
)
def test_what_is_no_image(predictor: Predictor, picture: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        predictor([picture])


def test_a_cut_picture_of_pillows(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(scene((100, 120), BLOBS)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(UserError, match=r"cut\.png cannot be read"):
        predictor(Image.open(tmp_path / "cut.png"))


def test_wrong_arguments(predictor: Predictor) -> None:
    image = scene((100, 120), BLOBS)
    for words, more in (
        ("batch of 0", {"batch_size": 0}),
        ("order of channels 'rgb'", {"order": "rgb"}),
        (r"Tiles of \(0, 10\)", {"tile": (0, 10)}),
        ("overlap of 1", {"tile": (10, 10), "overlap": 1}),
    ):
        with pytest.raises(UserError, match=words):
            predictor(image, **more)  # type: ignore[arg-type]


def test_batches_hold_images_of_one_size_and_results_keep_their_order(predictor: Predictor) -> None:
    sizes = [(100, 120), (120, 100), (200, 240), (100, 120), (100, 120), (120, 100), (100, 120)]
    images = [scene(size, [(10, 10, 30 + 4 * i, 40)]) for i, size in enumerate(sizes)]
    alone = [predictor(image) for image in images]
    model = predictor.inner.model
    assert isinstance(model, BlobSegmenter)
    model.batches.clear()
    assert predictor(images, batch_size=3) == alone
    # (200, 240) is as large at the network as (100, 120): five of these in batches of three, two of the others.
    assert sorted(model.batches) == [2, 2, 3]


def test_compact_masks_are_the_same(predictor: Predictor) -> None:
    image = scene((100, 120), BLOBS)
    found, compact = predictor(image), predictor(image, compact=True)
    assert isinstance(found, sv.Detections) and isinstance(compact, sv.Detections)
    assert isinstance(compact.mask, sv.CompactMask) and found.mask is not None
    assert np.array_equal(compact.mask.to_dense(), found.mask)


def test_masks_may_come_as_a_tensor_or_not_at_all(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmenter of one's own need not know run lengths."""
    image = scene((100, 120), BLOBS)
    expected, run = predictor(image), BlobSegmenter.inference

    def plain(self: Segmenter, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with self.encoding_masks(False):
            return run(self, batched_inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(BlobSegmenter, "inference", plain)
    assert predictor(image) == expected

    def boxes_only(self: Segmenter, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        outputs = plain(self, batched_inputs)
        for output in outputs:
            output["instances"].remove("pred_masks")
        return outputs

    monkeypatch.setattr(BlobSegmenter, "inference", boxes_only)
    found = predictor(image)
    assert isinstance(found, sv.Detections) and found.mask is None and len(found) == 2
    tiled = predictor(image, tile=(60, 60))
    assert isinstance(tiled, sv.Detections) and tiled.mask is None and len(tiled) == 2
    monkeypatch.setattr(BlobSegmenter, "inference", lambda self, inputs: [{"sem_seg": None}])
    with pytest.raises(UserError, match="no instances"):
        predictor(image)


def test_half_precision_reaches_the_model_or_is_refused_with_a_warning(
    blob_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bool] = []

    def note(self: Segmenter, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
        return run(self, batched_inputs)  # type: ignore[arg-type]

    run = BlobSegmenter.inference
    monkeypatch.setattr(BlobSegmenter, "inference", note)
    image = scene((100, 120), BLOBS)
    for has_it in (True, False):
        monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda has_it=has_it: has_it)
        with caplog.at_level(logging.WARNING):
            Predictor(blob_run, device="cpu", half=True)(image)
    Predictor(blob_run, device="cpu")(image)
    assert seen == [True, False, False]
    assert caplog.text.count("Half precision: cpu computes in float32, as it has no fast bfloat16") == 1


# Tiles


def mosaic() -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """3000 x 4000 pixels with 300 small objects on a grid, one large one, and the boxes of all."""
    generator = np.random.default_rng(0)
    boxes = []
    for row in range(15):
        for column in range(20):
            x, y = 200 * column + int(generator.integers(10, 100)), 200 * row + int(generator.integers(10, 100))
            boxes.append((x, y, x + int(generator.integers(30, 60)), y + int(generator.integers(30, 60))))
    large = (1000, 800, 2900, 1900)
    boxes = [box for box in boxes if box[2] < 990 or box[0] > 2910 or box[3] < 790 or box[1] > 1910]
    return scene((3000, 4000), [*boxes, large]), [*boxes, large]


def test_tiles_find_what_the_whole_image_is_too_small_for(predictor: Predictor) -> None:
    image, boxes = mosaic()
    plain, tiled = predictor(image, compact=True), predictor(image, compact=True, tile=(500, 500), batch_size=8)
    assert isinstance(plain, sv.Detections) and isinstance(tiled, sv.Detections)
    # 30 times smaller at the network, only the large one has pixels enough.
    assert (len(plain), len(tiled), len(boxes)) == (1, len(boxes), 241)
    off = np.abs(tiled.xyxy[:, None] - np.array(boxes)[None]).max(axis=2)  # pixels, at the farthest of four sides
    nearest = off.argmin(axis=1)
    assert sorted(nearest) == list(range(len(boxes)))
    assert (
        off.min(axis=1).max() <= 30 and np.median(off.min(axis=1)) <= 3
    )  # a pixel of the network is 30 and 5 of these
    without = predictor(image, compact=True, tile=(500, 500), whole=False)
    assert isinstance(without, sv.Detections) and len(without) == len(boxes)  # its pieces in the tiles are united


def test_one_tile_is_the_image_itself(predictor: Predictor) -> None:
    image = scene((100, 120), BLOBS)
    assert predictor(image, tile=(200, 200)) == predictor(image)


def test_a_run_folder_may_be_elsewhere_than_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))
    folder = save_blob_run(tmp_path / "run")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("DEVICE: cpu", "DEVICE: cuda:7"))
    assert len(Predictor(folder, device="cpu")(scene((100, 120), BLOBS))) == 2
    if not torch.cuda.is_available():
        assert len(Predictor(folder)(scene((100, 120), BLOBS))) == 2
        with pytest.raises(UserError, match=r"Device 'cuda': PyTorch .* finds 0 CUDA device"):
            Predictor(folder, device="cuda")
    with pytest.raises(UserError, match="Device 'gpu' is not known"):
        Predictor(folder, device="gpu")
