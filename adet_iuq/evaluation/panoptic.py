"""Panoptic quality (Kirillov et al., arXiv 1801.00868) of COCO-format panoptic data sets.

detectron2's evaluator needs the package panopticapi, of which PyPI only has a copy by others. So this one is written
here; its results agree with that one to rounding. The rules are COCO's: a pair of one class matches above an IoU of
0.5, and crowds and unlabelled pixels do not count. Images are measured as they come; only counts are kept.
"""

import logging
import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from adet_iuq.data.annotations.panoptic import segment_ids
from adet_iuq.data.annotations.parsing import read_coco_json
from adet_iuq.data.images.reading import read_image
from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

VOID = 0  # the id of pixels that belong to no segment
IdMap = npt.NDArray[np.int64]


@dataclass
class Counts:
    """The counts of one class: matched pairs, surplus predicted segments, missed segments, and the sum of the pairs' IoU."""

    matched: int = 0
    surplus: int = 0
    missed: int = 0
    iou: float = 0.0

    def add(self, other: "Counts") -> None:
        """Adds the counts of another set of images."""
        self.matched += other.matched
        self.surplus += other.surplus
        self.missed += other.missed
        self.iou += other.iou

    def qualities(self) -> tuple[float, float, float]:
        """PQ, SQ and RQ, each 0 to 1; NaN if the class neither occurs nor is predicted."""
        segments = self.matched + 0.5 * self.surplus + 0.5 * self.missed
        if segments == 0:
            return (float("nan"),) * 3
        segmentation = self.iou / self.matched if self.matched else 0.0
        return self.iou / segments, segmentation, self.matched / segments


@dataclass
class Segments:
    """One panoptic map: `ids` (H, W), 0 to 2^31 - 1, the class of each id, and the ids that are crowds."""

    ids: IdMap
    classes: dict[int, int]
    crowds: set[int] = field(default_factory=set)


def count_matches(truth: Segments, predicted: Segments) -> dict[int, Counts]:
    """The numbers that one image adds to the counts of the classes."""
    # Each pair becomes one number, as sorting rows of two takes twenty times as long.
    width = int(predicted.ids.max()) + 1
    pairs, numbers = np.unique(truth.ids * width + predicted.ids, return_counts=True)
    common = {divmod(int(pair), width): int(number) for pair, number in zip(pairs, numbers, strict=True)}
    true_area: dict[int, int] = defaultdict(int)
    predicted_area: dict[int, int] = defaultdict(int)
    for (a, b), number in common.items():
        true_area[a] += number
        predicted_area[b] += number
    counts: dict[int, Counts] = defaultdict(Counts)
    done_true, done_predicted = set(truth.crowds), set()
    for (a, b), number in common.items():
        label = truth.classes.get(a)
        if label is None or a in truth.crowds or label != predicted.classes.get(b):
            continue
        # Unlabelled pixels do not count against a prediction.
        iou = number / (true_area[a] + predicted_area[b] - number - common.get((VOID, b), 0))
        if iou > 0.5:
            counts[label].add(Counts(matched=1, iou=iou))
            done_true.add(a)
            done_predicted.add(b)
    for a, label in truth.classes.items():
        counts[label].missed += a not in done_true
    # As in COCO's script, the last crowd of a class represents all its crowds.
    crowds = {label: a for a, label in truth.classes.items() if a in truth.crowds}
    for b, label in predicted.classes.items():
        ignored = common.get((VOID, b), 0) + common.get((crowds.get(label, VOID), b), 0) * (label in crowds)
        if b not in done_predicted and predicted_area[b] and ignored <= 0.5 * predicted_area[b]:
            counts[label].surplus += 1
    return counts


class PanopticTruth:
    """The panoptic maps of a registered data set, which are read one by one.

    Attributes:
        class_names: the names of the classes in the order of their numbers.
        things: the numbers of the classes that are things.

    Args:
        dataset_name: the name of a data set with `panoptic_json` and `panoptic_root` in its metadata.

    Raises:
        UserError: the panoptic JSON is missing or damaged.
    """

    def __init__(self, dataset_name: str) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        things: dict[int, int] = metadata.thing_dataset_id_to_contiguous_id
        content = read_coco_json(metadata.panoptic_json)
        self._root = metadata.panoptic_root
        self._numbers: dict[int, int] = {**metadata.stuff_dataset_id_to_contiguous_id, **things}
        self._entries = {int(entry["image_id"]): entry for entry in content["annotations"]}
        self.class_names: dict[int, str] = {self._numbers[c["id"]]: c["name"] for c in content["categories"]}
        self.things = set(things.values())

    def read(self, image_id: int, size: tuple[int, ...]) -> Segments:
        """The map of an image.

        Raises:
            UserError: the PNG file is missing or does not have this size.
        """
        entry = self._entries[image_id]
        path = os.path.join(self._root, entry["file_name"])
        ids = segment_ids(read_image(path, "RGB", kind="Panoptic map")).astype(
            np.int64
        )  # pairs of ids become one number
        if ids.shape != size:
            raise UserError(f"Panoptic map {path} is {ids.shape[::-1]} pixels, the prediction {size[::-1]}.")
        segments = entry["segments_info"]
        crowds = {s["id"] for s in segments if s.get("iscrowd", 0)}
        return Segments(ids, {s["id"]: self._numbers[s["category_id"]] for s in segments}, crowds)


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ in percent, over all classes, things (`_th`) and stuff (`_st`), and PQ of every class (`PQ-name`).

    It reads `panoptic_seg` of the outputs in the form of detectron2's models: ids (H, W) and, for each id, `id` and the
    class number `category_id`. Outputs without it are left out, with a warning.
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
        self._counts: dict[int, Counts] = defaultdict(Counts)
        self._images = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Measures a batch against the panoptic PNG files.

        Raises:
            UserError: a PNG file is missing or has another size than the prediction.
        """
        for entry, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" not in output:
                continue
            ids, segments = output["panoptic_seg"]
            predicted = Segments(
                ids.cpu().numpy().astype(np.int64), {int(s["id"]): int(s["category_id"]) for s in segments}
            )
            truth = self._truth.read(int(entry["image_id"]), predicted.ids.shape)
            for label, counts in count_matches(truth, predicted).items():
                self._counts[label].add(counts)
            self._images += 1

    def evaluate(self) -> dict[str, dict[str, float]]:
        """{"panoptic_seg": {metric: percent}} for the images of all processes, on the main process."""
        gathered = comm.gather((self._images, dict(self._counts)))
        if not comm.is_main_process():
            return {}
        total: dict[int, Counts] = defaultdict(Counts)
        for _, counts in gathered:
            for label, value in counts.items():
                total[label].add(value)
        if not sum(images for images, _ in gathered):
            logger.warning("'%s': the model gave no panoptic segmentation; PQ is not measured.", self._name)
            return {}
        return {"panoptic_seg": self._summary(total)}

    def _summary(self, total: dict[int, Counts]) -> dict[str, float]:
        qualities = {label: total[label].qualities() for label in self._truth.class_names}
        things = self._truth.things
        groups = {"": set(qualities), "_th": things, "_st": set(qualities) - things}
        result: dict[str, float] = {}
        for suffix, labels in groups.items():
            present = np.array([q for label, q in qualities.items() if label in labels and not np.isnan(q[0])])
            means = 100 * present.mean(axis=0) if len(present) else np.full(3, np.nan)
            result.update({name + suffix: float(mean) for name, mean in zip(("PQ", "SQ", "RQ"), means, strict=True)})
        result.update({f"PQ-{name}": 100 * qualities[label][0] for label, name in self._truth.class_names.items()})
        return result
