"""Chooses the evaluator of a data set."""

import importlib.util
import logging
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from adet_iuq.config.detections import COCO_DETECTIONS, counted_detections
from adet_iuq.data.annotations.evaluation_json import evaluation_json, evaluation_numbers
from adet_iuq.data.registration.datasets import source_of
from adet_iuq.data.registration.mosaic import EVALUATOR_TYPE, TILES
from adet_iuq.errors import UserError
from adet_iuq.evaluation.coco import InstanceEvaluator
from adet_iuq.evaluation.mosaic import LeakEvaluator, MosaicEvaluator
from adet_iuq.evaluation.panoptic import PanopticEvaluator
from adet_iuq.evaluation.semantic import SemanticEvaluator
from adet_iuq.registry import Registry

logger = logging.getLogger(__name__)

# Functions of the config, the data set's name and the output folder, by the `evaluator_type` of a data set's metadata.
EVALUATOR_REGISTRY: Registry[Callable[[CfgNode, str, str], DatasetEvaluator]] = Registry("evaluator")


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """The evaluator that the data set's metadata asks for: COCO's or LVIS's metrics of boxes and masks, PQ, or one that a
    project has put into `EVALUATOR_REGISTRY` under the metadata's `evaluator_type`.

    A panoptic set gets PQ and, if the model also gives a semantic map and instances, mIoU and mask AP.

    A set without annotations, such as COCO's test-dev, gets none of them: the evaluator writes
    `coco_instances_results.json` (or `lvis_...`) for the evaluation server. A user's COCO-format file with flaws that
    disturb the evaluation is replaced by a mended copy, `ground_truth.json` in `output_folder`.

    Args:
        cfg: the config. MODEL.MASK_ON decides whether masks are evaluated, and TEST.DETECTIONS_PER_IMAGE how many
            detections count if it is above COCO's 100.
        dataset_name: the name of a registered data set.
        output_folder: the folder for the predictions and for a mended copy.

    Raises:
        UserError: there is no evaluator for the data set, TEST.EVAL_BACKEND is unknown, a package is missing, or the
            mended copy cannot be written.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    build = EVALUATOR_REGISTRY.get(kind)
    if build is None:
        known = ", ".join(repr(name) for name in EVALUATOR_REGISTRY.names)
        raise UserError(
            f"Data set '{dataset_name}' cannot be evaluated: its evaluator_type is {kind!r}, known are {known}. "
            "Give a COCO-format JSON file in DATASETS.REGISTER and name it in DATASETS.TEST."
        )
    return build(cfg, dataset_name, output_folder)


@EVALUATOR_REGISTRY.register("coco")
def build_coco_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """COCO's metrics of all detections that the config allows, on a mended copy of the JSON file if one is needed."""
    name = _evaluated_name(dataset_name, output_folder)
    counted = counted_detections(cfg)
    if counted > COCO_DETECTIONS:
        logger.info(
            "'%s': %d detections per image count; COCO's own AP counts %d.", dataset_name, counted, COCO_DETECTIONS
        )
    return _instance_evaluator(cfg, name, output_folder, _tasks(cfg), counted)


@EVALUATOR_REGISTRY.register("lvis")
def build_lvis_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """LVIS's metrics.

    Raises:
        UserError: the package lvis is missing.
    """
    if importlib.util.find_spec("lvis") is None:
        raise UserError(f"Evaluating on '{dataset_name}' needs the Python package lvis: pip install --no-deps lvis")
    from adet_iuq.evaluation.lvis import LVISEvaluator

    name = _evaluated_name(dataset_name, output_folder)
    return LVISEvaluator(name, tasks=_tasks(cfg), output_dir=output_folder)


@EVALUATOR_REGISTRY.register("coco_panoptic_seg")
def build_panoptic_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """PQ, mIoU, and mask AP of the things."""
    maps = [PanopticEvaluator(dataset_name), SemanticEvaluator(dataset_name)]
    return DatasetEvaluators([*maps, *_mask_evaluators(cfg, dataset_name, output_folder)])


@EVALUATOR_REGISTRY.register(EVALUATOR_TYPE)
def build_mosaic_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """COCO's metrics, with as many times the detections as a mosaic has images, and the leak rate."""
    counted = TILES * counted_detections(cfg)
    coco = _instance_evaluator(cfg, dataset_name, output_folder, _tasks(cfg), counted)
    if not cfg.MODEL.MASK_ON:
        return coco
    leaks = LeakEvaluator(MetadataCatalog.get(dataset_name).json_file, cfg.TEST.MOSAIC.SCORE)
    return MosaicEvaluator([coco, leaks])


def _tasks(cfg: CfgNode) -> tuple[str, ...]:
    return ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)


def _evaluated_name(name: str, output_folder: str) -> str:
    """The data set's name, or that of a copy with a mended JSON file: COCOEvaluator takes the file from the metadata."""
    source = source_of(name)
    if source is None:
        return name
    json_file, image_root, stock = source
    served = json_file if stock else evaluation_json(json_file, output_folder, image_root=image_root)
    if served == json_file:
        return name
    twin = f"{name} (mended)"
    if twin in MetadataCatalog.list():
        MetadataCatalog.remove(twin)
    metadata = MetadataCatalog.get(name).as_dict()
    classes = metadata["thing_dataset_id_to_contiguous_id"]
    numbers = evaluation_numbers(classes)
    if numbers is not None:
        classes = {numbers[identity]: number for identity, number in classes.items()}
    changed = {"name": twin, "json_file": served, "thing_dataset_id_to_contiguous_id": classes}
    MetadataCatalog.get(twin).set(**{**metadata, **changed})
    return twin


def _mask_evaluators(cfg: CfgNode, dataset_name: str, output_folder: str) -> list[DatasetEvaluator]:
    """Mask AP on the things of a panoptic set, if it has an instance JSON and metadata that the evaluator takes."""
    metadata = MetadataCatalog.get(dataset_name)
    things = metadata.thing_dataset_id_to_contiguous_id
    if not cfg.MODEL.MASK_ON or metadata.get("json_file") is None:
        return []
    if len(metadata.thing_classes) != len(things):
        logger.warning(
            "'%s' lists stuff among its things: PQ only. %s_with_sem_seg has mask AP too.", *2 * [dataset_name]
        )
        return []
    return [_instance_evaluator(cfg, dataset_name, output_folder, ("segm",), COCO_DETECTIONS)]


def _instance_evaluator(
    cfg: CfgNode, name: str, output_folder: str, tasks: tuple[str, ...], counted: int
) -> InstanceEvaluator:
    return InstanceEvaluator(
        name, tasks=tasks, output_dir=output_folder, counted=counted, backend=cfg.TEST.EVAL_BACKEND
    )
