"""Converts weights of other projects to this one's names and back, either completely or not at all.

    adet-iuq convert swin_tiny_patch4_window7_224.pth swin_tiny.pth --from swin --config-file FILE
    adet-iuq convert path/to/hugging_face_folder mask2former.pth --from hf --config-file FILE
    adet-iuq convert output/run/model_final.pth model.safetensors --to hf --config-file FILE [KEY VALUE ...]

--config-file describes the model here; settings that shape tensors (classes, queries, depths) must be those of the file.
Formats: detectron2 (names as here; a .pkl of the published projects), timm (also torchvision; backbone only), swin
(classifiers of Swin's authors; backbone only), hf (transformers' Mask2Former with Swin, a folder or a file).
OUTPUT is written by its suffix: .pkl as detectron2 does, .safetensors, anything else with torch.save.

Exit code 0: every tensor found its place; 1: some did not (all of them are named), and nothing was written.
`python tools/convert_weights.py` is the same program.
"""

import argparse
import os
import sys

from detectron2.modeling import build_model

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.checkpoint.convert import FORMATS, from_ours, read_weights, to_ours, write_weights
from adet_iuq.config import add_project_option, import_projects, load_config
from adet_iuq.engine.meta_arch import find_segmenter
from adet_iuq.errors import UserError
from adet_iuq.modeling import Segmenter


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line; the module's text describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="file of weights, or a Hugging Face folder")
    parser.add_argument("output", help="file to write")
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument(
        "--from", dest="source", choices=FORMATS, help="format of INPUT; OUTPUT has this project's names"
    )
    direction.add_argument(
        "--to", dest="target", choices=FORMATS, help="format of OUTPUT; INPUT has this project's names"
    )
    parser.add_argument("--config-file", required=True, help="the model")
    add_project_option(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    # Intermixed parsing lets overrides follow the options.
    return parser.parse_intermixed_args(arguments)


def convert(arguments: argparse.Namespace) -> str:
    """Converts and writes; returns the message for the user.

    Raises:
        UserError: a tensor found no place, or a file is unusable.
    """
    options = ["MODEL.DEVICE", "cpu", *arguments.opts]
    cfg = load_config(arguments.config_file, options, import_projects(arguments.project)).cfg
    find_segmenter(cfg)
    model: Segmenter = build_model(cfg)
    tensors = read_weights(arguments.input)
    if arguments.source:
        conversion = to_ours(tensors, model, arguments.source)
    else:
        conversion = from_ours(tensors, model, arguments.target)
    conversion.raise_if_incomplete(arguments.input)
    write_weights(conversion.tensors, arguments.output)
    text = f"{len(conversion.tensors)} tensors written to {os.path.abspath(arguments.output)}."
    if conversion.left_out:
        text += f"\nNot part of it: {', '.join(conversion.left_out)}."
    return text


def main(arguments: list[str] | None = None) -> int:
    """Converts; returns the exit code."""
    try:
        print(convert(parse_arguments(arguments)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
