"""Which package compares results with the ground truth: TEST.EVAL_BACKEND, by COCO's rules.

pycocotools is the reference, and its numbers are the ones to report. The others do the same in compiled code. Only this
file knows the packages; LVIS, panoptic and semantic metrics have nothing to do with them.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from pycocotools.coco import COCO

from adet_iuq.config.detections import COCO_DETECTIONS
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

Result = dict[str, Any]  # of one object, in COCO's results format


class Comparison(Protocol):
    """What every package calls COCOeval.

    Attributes:
        params: among others `catIds`, the classes; `imgIds`; and `maxDets`, how many detections of an image and a class
            count, which is a list of three numbers: AP uses the last one.
        eval: among others `precision`, (T, R, K, A, M): IoU and recall thresholds, classes, areas, `maxDets`.
        stats: the twelve numbers that COCO's table has, -1 where there is nothing to find.
    """

    params: Any
    eval: dict[str, Any]
    stats: Sequence[float]

    def evaluate(self) -> None:
        """Matches detections with objects, image by image."""

    def accumulate(self) -> None:
        """Fills `eval`."""

    def summarize(self) -> None:
        """Fills `stats`, and prints them."""


@dataclass(frozen=True)
class Backend:
    """A package that compares.

    Attributes:
        module: the name under which Python imports it.
        load: makes the comparison of a ground truth, results, "bbox" or "segm", and the number of detections that count.
            It may change the results.
    """

    module: str
    load: Callable[[COCO, list[Result], str, int], Comparison]


def _pycocotools(truth: COCO, results: list[Result], task: str, counted: int) -> Comparison:
    """As detectron2 does it: its compiled build replaces the loops by its own, where COCO's 100 detections count."""
    kind = COCOeval_opt if counted == COCO_DETECTIONS else COCOevalMaxDets
    comparison: Comparison = kind(truth, truth.loadRes(results), task)
    return comparison


def _faster_coco_eval(truth: COCO, results: list[Result], task: str, counted: int) -> Comparison:
    import faster_coco_eval

    own = faster_coco_eval.COCO(truth.dataset)
    comparison: Comparison = faster_coco_eval.COCOeval_faster(own, own.loadRes(results), task, print_function=print)
    return comparison


def _hotcoco(truth: COCO, results: list[Result], task: str, counted: int) -> Comparison:
    import hotcoco

    own = hotcoco.COCO(truth.dataset)
    # Its attributes are properties, which the protocol's cannot be; they are only read.
    return cast(Comparison, hotcoco.COCOeval(own, own.load_res(results), task))


BACKENDS: Mapping[str, Backend] = {
    "pycocotools": Backend("pycocotools", _pycocotools),
    "faster-coco-eval": Backend("faster_coco_eval", _faster_coco_eval),
    "hotcoco": Backend("hotcoco", _hotcoco),
}


def find_backend(name: str) -> Backend:
    """The backend of this name.

    Raises:
        UserError: there is none, or its package is missing.
    """
    if name not in BACKENDS:
        raise UserError(f"TEST.EVAL_BACKEND is '{name}'; it can be {', '.join(BACKENDS)}.")
    if importlib.util.find_spec(BACKENDS[name].module) is None:
        raise UserError(
            f"TEST.EVAL_BACKEND {name} needs the Python package {name}: pip install {name}, or leave the key out; the "
            "default, pycocotools, gives the same numbers."
        )
    return BACKENDS[name]


def fitting(backend: Backend, truth: COCO) -> Backend:
    """The backend, or pycocotools for a ground truth whose images or classes have ids that only it accepts: words, negative
    numbers, and such as do not fit into 53 bits."""
    if all(isinstance(identity, int) and 0 <= identity < 2**53 for identity in (*truth.imgs, *truth.cats)):
        return backend
    if backend.module != "pycocotools":
        logger.warning(
            "The ground truth has ids of images or classes that are words, negative, or larger than 2^53: pycocotools "
            "evaluates it, as %s cannot.",
            backend.module,
        )
    return BACKENDS["pycocotools"]


def compare(
    backend: Backend,
    truth: COCO,
    results: Sequence[Result],
    task: str,
    counted: int,
    image_ids: Sequence[int] | None = None,
) -> Comparison:
    """Compares results with the ground truth, and prints COCO's table.

    Args:
        backend: the package to use.
        truth: the ground truth, whose annotations may get more keys, and masks as run lengths.
        results: at least one result, in COCO's results format with the ids of the ground truth; they stay as they are.
        task: "bbox" or "segm".
        counted: the number of detections of an image and a class that count.
        image_ids: the images that are looked at; None: all.
    """
    # A result with a box would count as small, medium or large by the area of its box, even as a mask.
    surplus = "bbox" if task == "segm" else "segmentation"
    kept = [{key: value for key, value in one.items() if key != surplus} for one in results]
    comparison = backend.load(truth, kept, task, counted)
    comparison.params.maxDets = [1, 10, counted]
    if image_ids is not None:
        comparison.params.imgIds = list(image_ids)
    comparison.evaluate()
    comparison.accumulate()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "hotcoco: max_dets differ")  # on purpose
        comparison.summarize()
    return comparison
