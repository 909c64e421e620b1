"""Semantic segmentation on COCO-format panoptic data sets: the class of each pixel, without telling instances apart.

detectron2's evaluator needs a map of classes beside every panoptic map, so this one is written here. Its numbers are those
of detectron2's main branch (docs/evaluation.md). Images are measured as they come; only a table of pixel counts is kept.
"""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from adet_iuq.evaluation.panoptic import PanopticTruth, Segments

logger = logging.getLogger(__name__)


def class_map(segments: Segments, classes: int) -> npt.NDArray[np.int64]:
    """(H, W) the class of every pixel, `classes` if it is not labelled; crowds count as their class."""
    ids, places = np.unique(segments.ids, return_inverse=True)
    labels = np.array([segments.classes.get(int(i), classes) for i in ids], dtype=np.int64)
    return np.asarray(labels[places].reshape(segments.ids.shape))


class SemanticEvaluator(DatasetEvaluator):
    """mIoU, frequency-weighted IoU, mean and overall pixel accuracy in percent, and IoU of every class (`IoU-name`).

    It reads `sem_seg` of the outputs, scores (classes, H, W). Outputs without it are left out, with a message.
    """

    def __init__(self, dataset_name: str) -> None:
        """
        Args:
            dataset_name: the name of a registered data set with `panoptic_json` and `panoptic_root` in its metadata.

        Raises:
            UserError: the panoptic JSON is missing or damaged.
        """
        self._name, self._truth = dataset_name, PanopticTruth(dataset_name)
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        size = len(self._truth.class_names) + 1
        self._pixels = np.zeros((size, size), dtype=np.int64)  # by true and predicted class; the last one is "none"

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Measures a batch against the panoptic PNG files.

        Raises:
            UserError: a PNG file is missing or has another size than the prediction.
        """
        none = len(self._pixels) - 1
        for entry, output in zip(inputs, outputs, strict=True):
            if "sem_seg" not in output:
                continue
            predicted = np.minimum(output["sem_seg"].argmax(0).cpu().numpy(), none)
            true = class_map(self._truth.read(int(entry["image_id"]), predicted.shape), none)
            pairs = true * len(self._pixels) + predicted
            self._pixels += np.bincount(pairs.ravel(), minlength=self._pixels.size).reshape(self._pixels.shape)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """{"sem_seg": {metric: percent}} for the images of all processes, on the main process."""
        gathered = comm.gather(self._pixels)
        if not comm.is_main_process():
            return {}
        pixels = np.sum(gathered, axis=0)[:-1]  # without the unlabelled pixels, which do not count
        if not pixels.any():
            logger.info("'%s': the model gave no semantic segmentation; mIoU is not measured.", self._name)
            return {}
        return {"sem_seg": self._summary(pixels)}

    def _summary(self, pixels: npt.NDArray[np.int64]) -> dict[str, float]:
        correct, true, predicted = pixels[:, :-1].diagonal(), pixels.sum(1), pixels[:, :-1].sum(0)
        present = true > 0
        iou = np.full(len(true), np.nan)
        iou[present] = 100 * correct[present] / (true + predicted - correct)[present]
        result = {
            # As in detectron2's main branch; version 0.6 also counts a class that is predicted but does not occur, as 0.
            "mIoU": float(iou[present].mean()),
            "fwIoU": float((iou[present] * true[present]).sum() / true.sum()),
            "mACC": float(100 * (correct[present] / true[present]).mean()),
            "pACC": float(100 * correct.sum() / true.sum()),
        }
        return result | {f"IoU-{name}": float(iou[label]) for label, name in self._truth.class_names.items()}
