"""`adet-iuq demo` on an oracle: pictures, videos, cameras, tracks, tiles; what is damaged; Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from adet_iuq.commands import demo
from adet_iuq.inference.videos import VideoFile, VideoSource
from helpers.blob_segmenter import BlobSegmenter, save_blob_run, scene
from helpers.golden import REPOSITORY

FRAMES = 12


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADET_IUQ_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    """The options that name the model and the output folder."""
    return ["--run", str(save_blob_run(tmp_path / "run")), "--output", str(tmp_path / "out")]


def moving(number: int) -> np.ndarray:
    """One object goes right, another one down."""
    step = 6 * number
    return scene((100, 120), [(5 + step, 10, 25 + step, 30), (90, 5 + step, 110, 25 + step)])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoFile(path, 10.0) as video:
        for number in range(FRAMES):
            video.write(moving(number))
    return path


def frames(path: Path) -> list[np.ndarray]:
    with VideoSource(path) as video:
        return list(video)


def test_pictures_and_videos_of_one_folder(
    model: list[str], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), moving(0))
    assert demo.main([str(tmp_path), *model]) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["00001_a.png", "clip_predicted.mp4", "predictions.json"]
    shown = frames(out / "clip_predicted.mp4")
    assert len(shown) == FRAMES and shown[0].shape == (400, 480, 3)  # small images are enlarged
    content = json.loads((out / "predictions.json").read_text())
    assert [len(content[key]) for key in ("images", "annotations")] == [1, 2]
    printed = capsys.readouterr().out
    assert f"{FRAMES} frames, {2 * FRAMES} instances: {out}/clip_predicted.mp4" in printed
    assert f"1 images, 2 instances: {out}/predictions.json" in printed and f"1 pictures in {out}" in printed


def test_formats_of_a_video(model: list[str], clip: Path, tmp_path: Path) -> None:
    assert demo.main([str(clip), *model, "--formats", "pictures", "json", "--frames", "3"]) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("*.*")) == [
        *(f"0000{number}_clip_00000{number}.png" for number in (1, 2, 3)),
        "predictions.json",
    ]
    coco = COCO(str(out / "predictions.json"))
    assert [image["frame"] for image in coco.loadImgs(coco.getImgIds())] == [0, 1, 2]
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=[2]))[0]
    mask = coco.annToMask(annotation)
    assert abs(int(mask.sum()) - 400) < 40 and annotation["area"] == mask.sum()
    assert annotation["score"] == pytest.approx(0.9, abs=0.03)


def test_two_videos_of_one_name(model: list[str], clip: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = clip.rename(tmp_path / "more" / "clip.mp4")
    clip.write_bytes(other.read_bytes())
    assert demo.main([str(clip), str(other), *model, "--frames", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip_predicted.mp4", "clip_predicted_2.mp4"]


def test_tracks_keep_their_number_and_colour(model: list[str], clip: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    assert demo.main([str(clip), *model, "--track", "--formats", "json", "video"]) == 0
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    tracks: dict[int, list[float]] = {}
    for annotation in content["annotations"]:
        tracks.setdefault(annotation["track_id"], []).append(annotation["bbox"][0])
    # A track begins with the second frame that shows its object.
    assert len(tracks) == 2 and {len(seen) for seen in tracks.values()} == {FRAMES - 1}
    right, down = sorted(tracks.values(), key=lambda seen: -np.ptp(seen))
    assert np.diff(right).min() > 3 and np.ptp(down) < 3
    shown = frames(tmp_path / "out" / "clip_predicted.mp4")
    colours = [shown[number][4 * 20, 4 * (15 + 6 * number)].astype(int) for number in (1, FRAMES - 1)]
    assert np.abs(colours[0] - colours[1]).max() < 25


def test_tiles_and_batches(model: list[str], tmp_path: Path) -> None:
    blobs = [
        (50 + 300 * column, 50 + 300 * row, 80 + 300 * column, 80 + 300 * row)
        for column in range(5)
        for row in range(4)
    ]
    cv2.imwrite(str(tmp_path / "large.png"), scene((1200, 1600), blobs))
    counts = []
    for more in ([], ["--tile", "400", "400", "--overlap", "0.25", "--batch-size", "4", "--device", "cpu"]):
        assert demo.main([str(tmp_path / "large.png"), *model, *more]) == 0
        counts.append(len(json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]))
    assert counts == [0, 20]


def test_a_camera(model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        def __init__(self, source: Any) -> None:
            self.there, self.done = source == 0, 0

        def isOpened(self) -> bool:
            return self.there

        def get(self, key: int) -> float:
            return 0.0

        def read(self) -> tuple[bool, Any]:
            self.done += 1
            return True, moving(self.done % FRAMES)

        def release(self) -> None:
            self.there = False

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", Camera)
        assert demo.main(["--webcam", "0", "--frames", "5", *model]) == 0
        assert demo.main(["--webcam", "1", "--frames", "5", *model]) == 1
    assert len(frames(tmp_path / "out" / "camera0_predicted.mp4")) == 5


def test_damaged_sources_are_named_and_the_rest_is_done(
    model: list[str], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:1000])
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    words = [str(tmp_path / name) for name in ("cut.mp4", "cut.png", "gone.avi", "clip.mp4")]
    assert demo.main([*words, *model]) == 1
    error = capsys.readouterr().err
    for name in ("cut.mp4 cannot be opened", "cut.png cannot be read", "gone.avi does not exist"):
        assert name in error
    assert error.count("It is left out.") == 3
    assert len(frames(tmp_path / "out" / "clip_predicted.mp4")) == FRAMES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Nothing to predict on"),
        (["a.png", "--track"], "--track is for videos"),
        (["a.png", "--formats", "video"], "--formats video is for videos"),
        (["a.png", "--config-file", "x.yaml"], "Name the model by --run FOLDER, or by --config-file"),
        (["a.png", "--tile", "0", "5"], "Tiles of (0, 5)"),
        (["a.mp4", "--frames", "-1"], "--frames -1: give 1 or more"),
    ],
)
def test_wrong_lines_end_with_2(
    words: list[str], message: str, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([*words, *model]) == 2
    assert message in capsys.readouterr().err


def test_tracking_without_its_package(
    model: list[str], clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    assert demo.main([str(clip), "--track", *model]) == 2
    assert "pip install 'adet-iuq[track]'" in capsys.readouterr().err


def test_ctrl_c_leaves_a_video_that_plays(
    model: list[str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = BlobSegmenter.inference

    def interrupted(self: BlobSegmenter, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(self.batches) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return run(self, batched_inputs)

    monkeypatch.setattr(BlobSegmenter, "inference", interrupted)
    assert demo.main([str(clip), *model, "--formats", "video", "json"]) == 130
    assert len(frames(tmp_path / "out" / "clip_predicted.mp4")) == 4
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 4
    captured = capsys.readouterr()
    assert "Stopped by Ctrl-C" in captured.err and "4 frames" in captured.out


def test_a_video_that_breaks_off(
    model: list[str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that was read is written, with batches as well, and the source is named."""

    def promise(self: VideoSource) -> "VideoSource":
        self.frames = 100
        return self

    with monkeypatch.context() as patch:
        patch.setattr(VideoSource, "__enter__", promise)
        assert demo.main([str(clip), *model, "--batch-size", "5"]) == 1
    assert f"ends after {FRAMES} of 100 frames" in capsys.readouterr().err
    assert len(frames(tmp_path / "out" / "clip_predicted.mp4")) == FRAMES


def test_a_model_without_instances_ends_with_2(
    model: list[str], clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(BlobSegmenter, "inference", lambda self, inputs: [{"sem_seg": None} for _ in inputs])
    assert demo.main([str(clip), *model]) == 2
    assert "no instances" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_program(model: list[str], clip: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").mkdir()
    (tmp_path / "blob" / "__init__.py").write_text("import helpers.blob_segmenter\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    words = [sys.executable, "-m", "adet_iuq", "demo", str(clip), *model, "--project", str(tmp_path / "blob")]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "12 frames, 24 instances" in done.stdout, done.stderr
