"""Video files in and out, and a camera made of a stub."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from adet_iuq.errors import UserError
from adet_iuq.inference.videos import VideoFile, VideoSource, is_video


def frame(number: int) -> np.ndarray:
    return np.full((64, 80, 3), 10 * number, dtype=np.uint8)


def write(path: Path, frames: int = 12, rate: float = 8.0) -> Path:
    with VideoFile(path, rate) as video:
        for number in range(frames):
            video.write(frame(number))
    return path


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    with VideoSource(write(tmp_path / "a.mp4")) as video:
        assert (video.rate, video.frames) == (8.0, 12)
        read = list(video)
        video.check_end()
    assert [image.shape for image in read] == [(64, 80, 3)] * 12
    assert [round(float(image.mean()) / 10) for image in read] == list(range(12))


def test_an_unfinished_block_leaves_a_file_that_plays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoFile(tmp_path / "a.mp4", 8.0) as video:
        for number in range(5):
            video.write(frame(number))
        raise KeyboardInterrupt
    with VideoSource(tmp_path / "a.mp4") as video_read:
        assert len(list(video_read)) == 5


def test_nothing_written_leaves_no_file(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "a.mp4", 8.0):
        pass
    assert not (tmp_path / "a.mp4").exists()
    with pytest.raises(UserError, match="cannot be written"), VideoFile(tmp_path / "no" / "a.mp4", 8.0) as video:
        video.write(frame(0))


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.avi").write_text("no video")
    for name, words in (("cut.mp4", "cannot be opened"), ("text.avi", "cannot be opened"), ("gone.mp4", "not exist")):
        with pytest.raises(UserError, match=rf"{name}.* {words}"), VideoSource(tmp_path / name):
            pass


class Camera:
    """What OpenCV gives for a camera: no number of frames, no rate, and at some point no frame any more."""

    def __init__(self, source: Any) -> None:
        self.left = 3 if source == 0 else 0

    def isOpened(self) -> bool:
        return self.left > 0

    def get(self, key: int) -> float:
        return -1.0 if key == cv2.CAP_PROP_FRAME_COUNT else 0.0

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, frame(0)

    def release(self) -> None:
        pass


def test_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with VideoSource(0) as video:
        assert (video.rate, video.frames) == (25.0, None)
        assert len(list(video)) == 3
    with pytest.raises(UserError, match=r"camera 4 cannot be opened\. Is it connected"):
        VideoSource(4)


def test_a_file_that_ends_before_its_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(Camera):
        def __init__(self, source: Any) -> None:
            self.left = 3

        def get(self, key: int) -> float:
            return 100.0 if key == cv2.CAP_PROP_FRAME_COUNT else 10.0

    (tmp_path / "a.mp4").touch()
    monkeypatch.setattr(cv2, "VideoCapture", Cut)
    with VideoSource(tmp_path / "a.mp4") as video:
        assert len(list(video)) == 3
        with pytest.raises(UserError, match="ends after 3 of 100 frames"):
            video.check_end()


def test_suffixes() -> None:
    assert is_video(Path("a.MP4")) and not is_video(Path("a.png"))
