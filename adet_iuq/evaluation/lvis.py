"""LVIS's metrics: AP of boxes and masks over all, rare, common and frequent classes (AP, APr, APc, APf).

The package lvis judges detections. Its accumulation fails with NumPy >= 1.24 (its last release, 0.5.3, still contains
`np.float`), so it is written here. Import this module only if lvis is installed.
"""

import itertools
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lvis
import numpy as np
import numpy.typing as npt
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from adet_iuq.evaluation.run_lengths import RunLengthEvaluator, coco_results
from adet_iuq.evaluation.sizes import ImageSizes
from adet_iuq.evaluation.source import Source, write_source

logger = logging.getLogger(__name__)

RESULTS_FILE = "lvis_instances_results.json"  # detectron2's name; the evaluation server accepts the file as it is
MAX_DETECTIONS = 300  # detections per image, by the definition of LVIS's metrics
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")

Curve = npt.NDArray[np.float64]


class LVISEval(lvis.LVISEval):
    """The package's evaluation of one image and class, and loops around it that current NumPy and large sets allow."""

    def evaluate(self) -> None:
        """Fills `eval_imgs` by class and number of the area range, image by image.

        The package goes over every pair of an image and a class, 24 million in LVIS's validation set, of which nearly all
        are empty. Here only those with an object or a detection are judged.
        """
        self._prepare()
        pairs = sorted({*self._gts, *self._dts})
        self.ious = {pair: self.compute_iou(*pair) for pair in pairs}
        self.eval_imgs = defaultdict(list)
        for image, category in pairs:
            for area, limits in enumerate(self.params.area_rng):
                self.eval_imgs[category, area].append(self.evaluate_img(image, category, limits))

    def accumulate(self) -> None:
        """Fills `eval` from `eval_imgs`: precision (T, R, K, A) at the recall thresholds, and recall (T, K, A); -1 if there
        is nothing to find.
        """
        params = self.params
        shape = (len(params.cat_ids), len(params.area_rng))
        precision = np.full((len(params.iou_thrs), len(params.rec_thrs), *shape), -1.0)
        recall = np.full((len(params.iou_thrs), *shape), -1.0)
        for number, category in enumerate(params.cat_ids):
            for area in range(shape[1]):
                curves = precision_recall(self.eval_imgs[category, area], params.rec_thrs)
                if curves is not None:
                    precision[:, :, number, area], recall[:, number, area] = curves
        self.eval = {"params": params, "precision": precision, "recall": recall}


def precision_recall(judged: list[dict[str, Any]], recall_thresholds: Curve) -> tuple[Curve, Curve] | None:
    """Precision (T, R) at the recall thresholds, and the recall reached (T,), for one class and area range.

    Args:
        judged: for every image with objects or detections of the class, the result of `lvis.LVISEval.evaluate_img`.
        recall_thresholds: (R,) the thresholds, rising.

    Returns:
        Both curves for T IoU thresholds; None if no object counts.
    """
    objects = sum(int(np.count_nonzero(np.asarray(one["gt_ignore"]) == 0)) for one in judged)
    if not objects:
        return None
    order = np.argsort(-np.concatenate([one["dt_scores"] for one in judged]), kind="stable")
    matched = np.concatenate([one["dt_matches"] for one in judged], axis=1)[:, order] != 0
    counted = np.concatenate([one["dt_ignore"] for one in judged], axis=1)[:, order] == 0
    hits = np.cumsum(matched & counted, axis=1).astype(np.float64)
    misses = np.cumsum(~matched & counted, axis=1)
    recall = hits / objects
    precision = hits / (hits + misses + np.spacing(1))
    # The best precision at this recall or a higher one; 0 beyond the reached recall.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))
    places = [np.searchsorted(row, recall_thresholds, side="left") for row in recall]
    reached = recall[:, -1] if recall.shape[1] else np.zeros(len(recall))
    return np.take_along_axis(precision, np.stack(places), axis=1), reached


class LVISEvaluator(RunLengthEvaluator):
    """Collects the predictions of all ranks, writes them to a file and measures them.

    Args:
        dataset_name: the name of a registered data set whose metadata has `json_file` (LVIS format).
        tasks: some of "bbox" and "segm".
        output_dir: the folder for `lvis_instances_results.json`.
    """

    def __init__(self, dataset_name: str, *, tasks: Iterable[str], output_dir: str) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        self._tasks, self._output_dir = tuple(tasks), output_dir
        self._predictions: list[dict[str, Any]] = []
        self._sizes = ImageSizes()

    def reset(self) -> None:
        """Forgets all images."""
        self._predictions, self._sizes = [], ImageSizes()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Takes in the results of some images; see `DatasetEvaluator`."""
        self._sizes.note(inputs)
        for image, output in zip(inputs, outputs, strict=True):
            self._predictions += coco_results(output["instances"], image["image_id"])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """{task: {metric: percent, nan if there is nothing to find}} on the main process; nothing on the others.

        It is also empty for a data set without annotations, whose file is for the evaluation server.
        """
        comm.synchronize()
        predictions = list(itertools.chain(*comm.gather(self._predictions)))
        sizes = self._sizes.gather()
        if not comm.is_main_process():
            return {}
        ids = self._category_ids()
        predictions = [{**one, "category_id": ids[one["category_id"]]} for one in predictions]
        os.makedirs(self._output_dir, exist_ok=True)
        Path(self._output_dir, RESULTS_FILE).write_text(json.dumps(predictions))
        write_source(self._output_dir, self._source())
        truth = lvis.LVIS(self._metadata.json_file)
        if not truth.anns:
            return {}
        for identity, size in sizes.items():
            truth.imgs[identity].update(size)
        return {task: lvis_metrics(truth, predictions, task) for task in self._tasks}

    def _source(self) -> Source:
        return Source(
            ground_truth=self._metadata.json_file,
            image_root=self._metadata.get("image_root") or os.path.dirname(self._metadata.json_file),
            task="segm" if "segm" in self._tasks else "bbox",
            rules="lvis",
            predictions=RESULTS_FILE,
            max_detections=MAX_DETECTIONS,
        )

    def _category_ids(self) -> Mapping[int, int]:
        """The data set's id of every class number; LVIS's own files count from 1."""
        numbers = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if numbers:
            return {number: identity for identity, number in numbers.items()}
        return {number: number + 1 for number in range(len(self._metadata.thing_classes))}


def lvis_metrics(truth: lvis.LVIS, predictions: list[dict[str, Any]], task: str) -> dict[str, float]:
    """LVIS's metrics in percent; nan if there is nothing to find, and for all metrics if there is no prediction.

    Args:
        truth: the annotations; "segm" turns their segmentations into run-length masks.
        predictions: the predictions in COCO's results format, which are not changed.
        task: "bbox" or "segm".
    """
    if not predictions:
        logger.warning("No predictions to evaluate.")
        return dict.fromkeys(METRICS, math.nan)
    # Results with a box would count as small, medium or large by the area of their box, even as masks.
    surplus = "bbox" if task == "segm" else "segmentation"
    kept = [{key: value for key, value in one.items() if key != surplus} for one in predictions]
    evaluation = LVISEval(truth, lvis.LVISResults(truth, kept, max_dets=MAX_DETECTIONS), task)
    evaluation.run()
    values = {name: float(evaluation.results[name]) for name in METRICS}
    metrics = {name: 100 * value if value >= 0 else math.nan for name, value in values.items()}
    logger.info("%s:\n%s", task, create_small_table(metrics))
    return metrics
