#!/usr/bin/env python
r"""Draws where the query of an instance fires: over its own image, and over other images (docs/queries.md).

    python tools/visualize_queries.py --config-file output/config.yaml --weights output/model_final.pth \
        --base-weights base/model_final.pth --image photo.jpg --instance 0 --gallery photos/ --output query.png

Without annotations the instances are the model's own detections; number 0 is the most certain one. With `--dataset NAME` in
place of `--image` they are the annotations of its picture number `--picture`, and its other pictures are the gallery.
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

# isort: split
import cv2
from detectron2.structures import Instances

import adet_iuq.modeling  # noqa: F401  registers the segmenters
from adet_iuq.config import add_project_option, import_projects
from adet_iuq.errors import EXIT_USER_ERROR, UserError
from adet_iuq.inference.images import find_files
from adet_iuq.visualization.instances import class_name
from adet_iuq.visualization.query_maps import as_truth, detect, num_sharing, pixel_grid, query_maps
from adet_iuq.visualization.query_models import Picture, QueryModel, load_models
from adet_iuq.visualization.query_picture import Row, draw_queries


def visualize(args: argparse.Namespace) -> None:
    """Writes the picture and prints what it shows.

    Raises:
        UserError: the model, the picture, the instance or the gallery is not usable.
    """
    models = load_models(args.config_file, args.weights, args.base_weights, args.opts, import_projects(args.project))
    picture, others = _pictures(models[-1], args)
    found = {model.name: detect(model.model, picture.image, args.score_threshold) for model in models}
    truth, labels = _instances(models[-1], picture, found["IUQ"])
    if not 0 <= args.instance < len(truth):
        raise UserError(
            f"--instance {args.instance}: {picture.name} has {len(truth)} instances, numbered from 0. Where they are "
            "detections, a lower --score-threshold finds more of them."
        )
    mask = truth.gt_masks.tensor[args.instance]
    rows = []
    for model in models:
        grids = [pixel_grid(model.model, other.image) for other in others]
        maps = query_maps(model.model, picture.image, truth, args.instance, grids)
        rows.append(Row(model.name, maps, num_sharing(found[model.name], mask)))
    drawn = draw_queries(picture, mask.numpy(), labels[args.instance], others, rows)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(args.output, drawn[:, :, ::-1]):
        raise UserError(f"--output {args.output} cannot be written.")
    _tell(rows, others, args.output)


def _pictures(model: QueryModel, args: argparse.Namespace) -> tuple[Picture, list[Picture]]:
    """The picture of the instance, and the gallery."""
    if args.image:
        picture, others = model.read(Path(args.image)), []
    else:
        wanted = list(islice(model.dataset(args.dataset), args.picture + 1 + args.limit))
        if not 0 <= args.picture < len(wanted):
            raise UserError(f"--picture {args.picture}: '{args.dataset}' has {len(wanted)} pictures with an instance.")
        picture = wanted.pop(args.picture)
        others = wanted[args.picture :] + wanted[: args.picture]
    if args.gallery:
        mine = Path(args.image).resolve() if args.image else None
        files = [file for file in find_files(args.gallery) if file.resolve() != mine]
        others = [model.read(file) for file in files[: args.limit]]
    if not others:
        raise UserError("There is no other picture for the query to be asked about: name some with --gallery.")
    return picture, others[: args.limit]


def _instances(model: QueryModel, picture: Picture, found: Instances) -> tuple[Instances, list[str]]:
    """The instances to choose from, and their names: the annotations, or else the detections of `model`."""
    truth = as_truth(found) if picture.truth is None else picture.truth
    names = [class_name(model.class_names, index) for index in truth.gt_classes.tolist()]
    return truth, [f"{name} {number}" for number, name in enumerate(names)]


def _tell(rows: list[Row], others: list[Picture], output: str) -> None:
    for row in rows:
        rates = [f"{heat.fire_rate:.1f} % of {other.name}" for heat, other in zip(row.maps.others, others, strict=True)]
        print(
            f"{row.name}: the query fires on {row.maps.own.fire_rate:.1f} % of its own image, and on {', '.join(rates)}; "
            f"other detections with its mask: {row.num_sharing}; queries of this instance: {row.maps.num_queries}"
        )
    print(f"The picture is {output}")


def main(words: list[str] | None = None) -> int:
    """Runs the tool; returns the exit code."""
    try:
        visualize(_parser().parse_args(words))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the IUQ model")
    parser.add_argument("--weights", required=True, metavar="FILE", help="weights of the IUQ model")
    parser.add_argument("--base-weights", default="", metavar="FILE", help="weights of the base, to compare with")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", default="", metavar="FILE", help="the picture of the instance")
    source.add_argument("--dataset", default="", metavar="NAME", help="take picture and instances from this data set")
    parser.add_argument("--picture", type=int, default=0, help="with --dataset: which of its pictures (default 0)")
    parser.add_argument("--instance", type=int, default=0, help="which instance of the picture (default 0)")
    parser.add_argument(
        "--gallery", nargs="+", default=[], metavar="PLACE", help="other pictures: files, folders or quoted patterns"
    )
    parser.add_argument("--limit", type=int, default=4, help="most pictures of the gallery (default 4)")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="lowest score of detections (default 0.3)")
    parser.add_argument("--output", required=True, metavar="FILE.png")
    add_project_option(parser)
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return parser


if __name__ == "__main__":
    sys.exit(main())
