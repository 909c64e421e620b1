"""Reads video files and cameras frame by frame, and writes mp4 files, with OpenCV."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from adet_iuq.errors import UserError

# The lower-case suffixes of the sources that count as videos.
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")

_USUAL_RATE = 25.0  # frames per second, if a source does not say

Pixels = npt.NDArray[np.uint8]


def is_video(path: Path) -> bool:
    """Whether a file counts as a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


class VideoSourceError(UserError):
    """A video or camera cannot be read, or not to its end."""


class VideoSource(AbstractContextManager["VideoSource"]):
    """An open video file or camera, closed at the end of the block. Iterating gives frames (H, W, 3) uint8 in BGR.

    Attributes:
        name: its name in messages and in the names of output files.
        rate: the number of frames per second.
        frames: the number of frames in its header; None: it does not say, or never ends.
        done: the number of frames that were read.

    Args:
        source: a path, or the number of a camera.

    Raises:
        VideoSourceError: the source cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        self.name = f"camera {source}" if isinstance(source, int) else f"video {source}"
        if isinstance(source, Path) and not source.is_file():
            raise VideoSourceError(f"Video {source} does not exist.")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            self._capture.release()
            hint = "Is it connected, and free?" if isinstance(source, int) else "Is it whole, and a video?"
            raise VideoSourceError(f"The {self.name} cannot be opened. {hint}")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and rate > 0 else _USUAL_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.done = 0
        self.frames = int(count) if isinstance(source, Path) and math.isfinite(count) and count > 0 else None

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Pixels]:
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            self.done += 1
            yield np.asarray(frame, dtype=np.uint8)

    def check_end(self) -> None:
        """Checks that all frames were read. It is a method of its own so that iterating loses no frame to an error.

        Raises:
            VideoSourceError: there were no frames, or far fewer than the header says.
        """
        # Headers may be wrong by a few frames; a second is more than that.
        if self.done == 0 or (self.frames is not None and self.done < self.frames - self.rate):
            promised = "" if self.frames is None else f" of {self.frames}"
            raise VideoSourceError(
                f"The {self.name} ends after {self.done}{promised} frames; it is damaged, cut off or disconnected."
            )


class VideoFile(AbstractContextManager["VideoFile"]):
    """An mp4 file to write. The file is whole after the block, however the block ends.

    Args:
        path: the path of the file.
        rate: the number of frames per second.

    Raises:
        UserError: the file cannot be written; raised at the first frame.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self._rate = path, rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: Pixels) -> None:
        """Adds a frame (H, W, 3) in BGR; all frames have the first one's size.

        Raises:
            UserError: the file cannot be written.
        """
        if self._writer is None:
            height, width = picture.shape[:2]
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, (width, height))
            if not self._writer.isOpened():
                raise UserError(
                    f"{self.path} cannot be written: OpenCV has no encoder for mp4v, or the folder is closed."
                )
        self._writer.write(picture)

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
