r"""Predictions on pictures, videos or a camera, as pictures, COCO-format JSON or videos.

    adet-iuq demo photos/ clip.mp4 --run output/quickstart --output shown
    adet-iuq demo clip.mp4 --track --run output/quickstart --output shown
    adet-iuq demo 'aerial/*.tif' --tile 640 640 --run output/quickstart --output shown
    adet-iuq demo --webcam 0 --config-file config.yaml --weights model_final.pth --output shown

Images become pictures and predictions.json, videos become videos (NAME_predicted.mp4); --formats chooses otherwise.
Ctrl-C ends a video or camera early; what was written by then can be played. Exit code 1: a source could not be read,
was named and left out; 2: nothing could be done; 130: stopped by Ctrl-C.
"""

import argparse
from pathlib import Path

from adet_iuq.commands.prediction import FORMATS, VIDEO, Prediction, add_model_options, exit_code
from adet_iuq.data.images.opening import IMAGE_SUFFIXES
from adet_iuq.errors import UserError
from adet_iuq.inference.images import find_files
from adet_iuq.inference.videos import VIDEO_SUFFIXES, is_video


def main(words: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = _parser().parse_args(words)

    def work() -> int:
        images, videos = _sources(args)
        return Prediction(args, args.formats, args.track, args.frames).run(images, videos)

    return exit_code(work)


def _sources(args: argparse.Namespace) -> tuple[list[Path], list[Path | int]]:
    """The images, and the videos followed by the cameras.

    Raises:
        UserError: there is no source, or none of the kind that an option needs; or the number of frames is below 1.
    """
    if not args.sources and args.webcam is None:
        raise UserError("Nothing to predict on: name images, videos or folders, or a camera with --webcam 0.")
    if args.frames is not None and args.frames < 1:
        raise UserError(f"--frames {args.frames}: give 1 or more.")
    paths = find_files(args.sources, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)) if args.sources else []
    images = [path for path in paths if not is_video(path)]
    videos: list[Path | int] = [path for path in paths if is_video(path)]
    videos += [] if args.webcam is None else [args.webcam]
    for option, wanted in (("--track", args.track), ("--formats video", VIDEO in args.formats)):
        if wanted and not videos:
            raise UserError(f"{option} is for videos, and there is none among the sources.")
    return images, videos


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCES", help="images, videos, folders or quoted patterns")
    parser.add_argument("--webcam", type=int, metavar="N", help="number of a camera; 0 is the first")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=[], help="what is written; see above")
    parser.add_argument("--track", action="store_true", help="number the objects of videos (needs the extra track)")
    parser.add_argument("--frames", type=int, metavar="N", help="end each video or camera after N frames")
    add_model_options(parser)
    return parser
