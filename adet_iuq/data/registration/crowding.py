"""Warns of test images with more objects than detections: the others can never be found, and AP does not say why."""

import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from adet_iuq.config.detections import DETECTIONS
from adet_iuq.data.annotations.digest_cache import digest_of
from adet_iuq.data.registration.datasets import source_of

logger = logging.getLogger(__name__)


def warn_of_crowded_images(cfg: CfgNode) -> None:
    """Names the COCO-type sets of DATASETS.TEST with more objects in an image than TEST.DETECTIONS_PER_IMAGE.

    detectron2's own data sets are not checked, because COCO counts 100 by definition.

    Raises:
        UserError: a JSON file cannot be read.
    """
    counted = cfg.TEST.DETECTIONS_PER_IMAGE
    for name in cfg.DATASETS.TEST:
        source = source_of(name)
        if source is None or source[2] or MetadataCatalog.get(name).get("evaluator_type") != "coco":
            continue
        objects = digest_of(source[0], source[1]).digest.objects
        crowded = objects[objects > counted]
        if len(crowded):
            logger.warning(
                "Data set '%s': %d of %d images have more than %d objects (up to %d), but only the best %d detections of an "
                "image count, so that the others are never found. Set %s %d.",
                *(name, len(crowded), len(objects), counted, crowded.max(), counted, DETECTIONS, crowded.max()),
            )
