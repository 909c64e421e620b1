"""What `predict` and `demo` share: the options that name a model, and the way from sources to files."""

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv
from tqdm import tqdm

from adet_iuq.config import add_project_option
from adet_iuq.errors import EXIT_CTRL_C, EXIT_USER_ERROR, UserError
from adet_iuq.inference import Predictor
from adet_iuq.inference.coco_file import CocoFile
from adet_iuq.inference.images import pixels_of
from adet_iuq.inference.tiles import Tiling
from adet_iuq.inference.tracking import FLOOR, Tracker
from adet_iuq.inference.videos import VideoFile, VideoSource, VideoSourceError
from adet_iuq.visualization import draw, of_detections

PICTURES, JSON, VIDEO = "pictures", "json", "video"
FORMATS = (PICTURES, JSON, VIDEO)

Pixels = npt.NDArray[np.uint8]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name a model, an output folder and a threshold."""
    parser.add_argument("--run", metavar="FOLDER", help="a finished training: its config.yaml and model_final.pth")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="a config file, or the name of a packaged one such as CondInst/R50_1x.yaml; then --weights is needed",
    )
    parser.add_argument("--weights", default="", metavar="FILE", help="needed with --config-file; optional with --run")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="lowest score that counts (default 0.3)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto (default): CUDA where there is one")
    parser.add_argument("--half", action="store_true", help="compute in half precision, where the device has it")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images in one forward pass (default 1)")
    parser.add_argument(
        "--tile", type=int, nargs=2, metavar=("H", "W"), help="cut images into tiles, for small objects"
    )
    parser.add_argument("--overlap", type=float, default=0.2, help="smallest overlap of tiles, a share (default 0.2)")
    add_project_option(parser)
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")


def build_predictor(args: argparse.Namespace) -> Predictor:
    """The predictor that the command line names.

    Raises:
        UserError: it names none, or one that cannot be used.
    """
    if bool(args.run) == bool(args.config_file):
        raise UserError("Name the model by --run FOLDER, or by --config-file FILE and --weights FILE.")
    return Predictor(
        args.run or args.config_file,
        args.weights,
        device=args.device,
        half=args.half,
        opts=args.opts,
        projects=args.project,
        score_threshold=args.score_threshold,
    )


def exit_code(work: Callable[[], int]) -> int:
    """The exit code of a command: the result of `work`, or 2 after a `UserError`, which is printed."""
    try:
        return work()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


class Prediction:
    """Predicts on sources and writes what was asked for. A source that cannot be read is named and left out.

    Attributes:
        failed: whether a source was left out.

    Args:
        args: the parsed options of `add_model_options`.
        formats: some of `FORMATS`; empty: pictures and JSON of images, videos of videos.
        track: whether objects in videos are numbered.
        limit: the number of frames to read from each video; None: all.

    Raises:
        UserError: the model, the tiles or the output folder cannot be used.
    """

    def __init__(
        self, args: argparse.Namespace, formats: Sequence[str] = (), track: bool = False, limit: int | None = None
    ) -> None:
        self._formats, self._track, self._limit = frozenset(formats), track, limit
        self._tiling = Tiling((args.tile[0], args.tile[1]), args.overlap) if args.tile else None
        self._batch_size, self._threshold = args.batch_size, args.score_threshold
        if track:
            Tracker(1.0, self._threshold)  # fails now if the library that it needs is missing
        self._output = Path(args.output)
        _make_folder(self._output)
        self._predictor = build_predictor(args)
        self._coco = CocoFile(self._predictor.class_names, self._predictor.category_ids)
        self._images = self._instances = self._pictures = 0
        self._targets: set[Path] = set()
        self.failed = False

    def run(self, images: Sequence[Path], videos: Sequence[Path | int]) -> int:
        """Predicts on all sources, reports what was written, and returns the exit code. 0: all went well; 1: a source was
        left out; 130: stopped by Ctrl-C, with all results up to then in usable files.

        Raises:
            UserError: the model gives no instances, or a file cannot be written.
        """
        code = 0
        try:
            if images:
                self._predict_images(images)
            for source in videos:
                self._predict_video(source)
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C; what was done so far is written.", file=sys.stderr)
            code = EXIT_CTRL_C
        self._report()
        return code or int(self.failed)

    def _wants(self, form: str, by_default: bool) -> bool:
        return form in self._formats if self._formats else by_default

    def _fail(self, error: UserError, consequence: str = "It is left out.") -> None:
        self.failed = True
        tqdm.write(f"Error: {error} {consequence}", file=sys.stderr)

    def _predict_images(self, paths: Sequence[Path]) -> None:
        read: deque[tuple[Path, Pixels]] = deque()

        def readable() -> Iterator[Pixels]:
            """The pixels of the files that can be read; each file that cannot is reported."""
            for path in tqdm(paths, unit="image", disable=None):
                try:
                    pixels = pixels_of(path, deep_images=self._predictor.inner.deep_images)
                except UserError as error:
                    self._fail(error)
                    continue
                read.append((path, pixels))
                yield pixels

        for detections in self._detections(readable()):
            path, pixels = read.popleft()
            self._images += 1
            self._save(pixels, detections, path.stem, str(path), by_default=True)

    def _detections(self, images: Iterable[Pixels]) -> Iterator[sv.Detections]:
        return self._predictor.stream(images, batch_size=self._batch_size, tiling=self._tiling)

    def _save(self, pixels: Pixels, found: sv.Detections, stem: str, file: str, by_default: bool, **more: int) -> None:
        """Writes one image or frame as a picture and as JSON, as far as these are wanted."""
        self._instances += len(found)
        if self._wants(PICTURES, by_default):
            path = self._output / f"{self._images:05d}_{stem}.png"
            _write_picture(path, draw(pixels, of_detections(found)))
            self._pictures += 1
        if self._wants(JSON, by_default):
            self._coco.add(self._images, file, (pixels.shape[0], pixels.shape[1]), found, **more)

    def _predict_video(self, source: Path | int) -> None:
        stem = f"camera{source}" if isinstance(source, int) else source.stem
        frames, instances, tracks = 0, self._instances, set()
        target = _unused(self._output / f"{stem}_predicted.mp4", self._targets)
        try:
            with ExitStack() as stack:
                video = stack.enter_context(VideoSource(source))
                written = stack.enter_context(VideoFile(target, video.rate))
                for frame, found in self._frames(video):
                    frames, self._images = frames + 1, self._images + 1
                    if found.tracker_id is not None:
                        tracks |= set(found.tracker_id.tolist())
                    self._save(frame, found, f"{stem}_{frames:06d}", str(source), by_default=False, frame=frames - 1)
                    if self._wants(VIDEO, by_default=True):
                        written.write(draw(frame, of_detections(found)))
                if frames != self._limit:
                    video.check_end()
        except VideoSourceError as error:
            self._fail(error, f"Its {frames} frames are written." if frames else "It is left out.")
        finally:
            numbers = f"{frames} frames, {self._instances - instances} instances"
            numbers += f", {len(tracks)} tracks" if self._track else ""
            if frames:
                print(f"{numbers}: {target if self._wants(VIDEO, by_default=True) else source}")

    def _frames(self, video: VideoSource) -> Iterator[tuple[Pixels, sv.Detections]]:
        """Each frame with its detections, which have tracks if these are wanted."""
        read: deque[Pixels] = deque()
        total = min((count for count in (video.frames, self._limit) if count is not None), default=None)

        def frames() -> Iterator[Pixels]:
            for frame in tqdm(islice(video, self._limit), total=total, unit="frame", desc=video.name, disable=None):
                read.append(frame)
                yield frame

        tracker = Tracker(video.rate, self._threshold) if self._track else None
        self._predictor.score_threshold = self._threshold * (1 if tracker is None else FLOOR)
        for detections in self._detections(frames()):
            yield read.popleft(), detections if tracker is None else tracker(detections)

    def _report(self) -> None:
        if self._coco.images:
            path = self._output / "predictions.json"
            self._coco.write(path)
            print(f"{len(self._coco.images)} images, {len(self._coco.annotations)} instances: {path}")
        if self._pictures:
            print(f"{self._pictures} pictures in {self._output}")


def _unused(path: Path, taken: set[Path]) -> Path:
    """The path, with a number added if a source of the same name has used it already; it is added to `taken`."""
    candidates = [path, *(path.with_stem(f"{path.stem}_{number}") for number in range(2, len(taken) + 2))]
    chosen = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(chosen)
    return chosen


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made: {error.strerror or error}.") from error


def _write_picture(path: Path, picture: Pixels) -> None:
    if not cv2.imwrite(str(path), picture):
        raise UserError(f"{path} cannot be written. Is the disk full, or the folder closed?")
