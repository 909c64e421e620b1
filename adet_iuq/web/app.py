r"""The page in the browser: masks of dropped pictures, and where the query of a clicked instance fires (docs/queries.md).

    adet-iuq web --run output/quickstart
    adet-iuq web --run output/iuq --base-run output/base --examples photos/

The page is for this machine alone (127.0.0.1) unless --host says otherwise. It asks nothing of other machines, and
keeps dropped files in a folder of its own, which is removed when the program ends.
`python tools/web_demo.py` is the same program.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adet_iuq.config import add_project_option, import_projects
from adet_iuq.errors import EXIT_USER_ERROR, UserError
from adet_iuq.web.server import launch, prepare_gradio

if TYPE_CHECKING:
    from adet_iuq.visualization.query_models import QueryModel
    from adet_iuq.web.viewer import Entry

_NUM_EXAMPLES = 12
_NUM_WEIGHTS = 12  # number of a run's files of weights that can be chosen from


def main(words: Sequence[str] | None = None) -> int:
    """Serves the page until it is interrupted; returns the exit code."""
    args = _parser().parse_args(words)
    try:
        with tempfile.TemporaryDirectory(prefix="adet_iuq_web_") as folder:
            serve(args, folder)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def serve(args: argparse.Namespace, folder: str) -> None:
    """Builds the page and serves it.

    The first models are loaded before the page exists, so that errors appear here and no visitor waits.

    Args:
        args: the parsed command line.
        folder: the folder for dropped files.

    Raises:
        UserError: gradio is missing; weights, config or examples are not usable; or the address is taken.
    """
    prepare_gradio(folder)
    from adet_iuq.web.page import CSS, Page
    from adet_iuq.web.viewer import Viewer

    weights = find_weights(args)
    load, files = _loader(args, weights["IUQ"][0])
    viewer = Viewer(load)
    viewer.models({name: found[0] for name, found in weights.items()})
    page = Page(viewer, weights, files, args.score_threshold)
    launch(page.app, CSS, args.host, args.port)


def find_weights(args: argparse.Namespace) -> dict[str, list[str]]:
    """The files of weights to choose from, by the name of the model, `base` (if any) before `IUQ`, the final ones first.

    Raises:
        UserError: there are no weights.
    """
    found = {
        "base": [*args.base_weights, *(_checkpoints(args.base_run) if args.base_run else [])],
        "IUQ": [*args.weights, *(_checkpoints(args.run) if args.run else [])],
    }
    if not found["IUQ"]:
        raise UserError("No weights: name the folder of a training with --run, or a checkpoint with --weights.")
    return {name: files for name, files in found.items() if files}


def _checkpoints(run: str) -> list[str]:
    """The weights in the folder of a training, the newest first."""
    files = sorted(
        Path(run).glob("model_*.pth"), key=lambda file: (file.stem == "model_final", file.name), reverse=True
    )
    if not files:
        raise UserError(f"There are no weights in {run}: a training leaves them there as model_final.pth.")
    return [str(file) for file in files[:_NUM_WEIGHTS]]


def _loader(args: argparse.Namespace, first: str) -> tuple[Callable[[str, str], "QueryModel"], list["Entry"]]:
    """The function that loads a model by its name and weights, and the examples.

    Raises:
        UserError: the config is missing or not named, or the folder of the examples has no image.
    """
    import adet_iuq.modeling  # noqa: F401  registers the segmenters
    from adet_iuq.inference import find_config, inference_config
    from adet_iuq.visualization.query_models import QueryModel, example_files
    from adet_iuq.web.viewer import Entry

    if not args.config_file and not args.run:
        raise UserError("No config: name it with --config-file, or the folder of a training with --run.")
    config_file, _ = find_config(args.config_file or args.run, first)
    added = import_projects(args.project)

    def load(name: str, weights: str) -> QueryModel:
        return QueryModel(name, inference_config(config_file, weights, args.opts, added))

    files = example_files(inference_config(config_file, first, args.opts, added), args.examples)
    return load, [Entry(file, file.name) for file in files[:_NUM_EXAMPLES]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="", metavar="FOLDER", help="an IUQ training with config and weights")
    parser.add_argument("--base-run", default="", metavar="FOLDER", help="the base's training, to compare with")
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="the config of the IUQ model, or a recipe's name (default: that of --run)",
    )
    parser.add_argument("--weights", nargs="+", default=[], metavar="FILE", help="weights of the IUQ model")
    parser.add_argument("--base-weights", nargs="+", default=[], metavar="FILE", help="weights of the base")
    parser.add_argument(
        "--examples", default="", metavar="FOLDER", help="pictures to begin with (default: test images)"
    )
    parser.add_argument("--score-threshold", type=float, default=0.3, help="lowest score at the start (default 0.3)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860 on")
    add_project_option(parser)
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return parser


if __name__ == "__main__":
    sys.exit(main())
