"""The project's config keys: names and defaults as published (docs/parity/sparseinst.md), unless a comment differs."""

import logging
from typing import Any

from detectron2.config import CfgNode

from adet_iuq.errors import UserError

logger = logging.getLogger(__name__)

# The values that this project supports, for published keys below MODEL.SPARSE_INST.
_KNOWN: dict[str, tuple[Any, ...]] = {
    "ENCODER.NAME": ("InstanceContextEncoder",),
    "ENCODER.NORM": ("",),
    "DECODER.NAME": ("BaseIAMDecoder", "GroupIAMDecoder", "GroupIAMSoftDecoder"),
    "DECODER.SCALE_FACTOR": (2.0,),  # targets are made for masks at stride 4
    "DECODER.OUTPUT_IAM": (False,),  # nothing reads the maps that it adds to the outputs
    "LOSS.NAME": ("SparseInstCriterion",),
    "LOSS.ITEMS": (["labels", "masks"],),
    "MATCHER.NAME": ("SparseInstMatcher", "SparseInstMatcherV1"),  # both names lead to the same assignment
}


def add_config(cfg: CfgNode) -> None:
    """Adds `MODEL.SPARSE_INST.*` and SOLVER.AMSGRAD; `--project` calls it before any YAML file is read."""
    # A key of the published files; False is plain AdamW. Their
    # OPTIMIZER and BACKBONE_MULTIPLIER are this package's keys too.
    cfg.SOLVER.AMSGRAD = False
    cfg.MODEL.SPARSE_INST = section = CfgNode()
    section.CLS_THRESHOLD = 0.005  # lowest score of results, which is the root of class times objectness
    section.MASK_THRESHOLD = 0.45  # threshold of mask probabilities
    section.MAX_DETECTIONS = 100  # without effect, as published; TEST.DETECTIONS_PER_IMAGE is the number of results
    # Without effect here. INPUT.DATASET_MAPPER_NAME names the mapper; "SparseInstDatasetMapper" is the published one.
    section.DATASET_MAPPER = "SparseInstDatasetMapper"

    section.ENCODER = CfgNode()
    section.ENCODER.NAME = "InstanceContextEncoder"  # the published default names an encoder that does not exist
    section.ENCODER.NORM = ""
    section.ENCODER.IN_FEATURES = ["res3", "res4", "res5"]  # maps of strides 8, 16, 32
    section.ENCODER.NUM_CHANNELS = 256

    section.DECODER = CfgNode()
    # Whether queries have one activation map each ("BaseIAMDecoder") or GROUPS of them, normalised by the sum of sigmoids
    # ("GroupIAMDecoder") or by a softmax over the image ("GroupIAMSoftDecoder").
    section.DECODER.NAME = "BaseIAMDecoder"
    section.DECODER.NUM_MASKS = 100  # queries
    section.DECODER.NUM_CLASSES = 80  # keys of this name get the data sets' number of classes
    section.DECODER.KERNEL_DIM = 128  # numbers of a query and of a pixel
    section.DECODER.SCALE_FACTOR = 2.0  # from the map to the mask logits
    section.DECODER.OUTPUT_IAM = False
    section.DECODER.GROUPS = 4
    section.DECODER.INST = CfgNode({"DIM": 256, "CONVS": 4})
    section.DECODER.MASK = CfgNode({"DIM": 256, "CONVS": 4})

    section.LOSS = CfgNode()
    section.LOSS.NAME = "SparseInstCriterion"
    section.LOSS.ITEMS = ["labels", "masks"]
    section.LOSS.CLASS_WEIGHT = 2.0
    section.LOSS.MASK_PIXEL_WEIGHT = 5.0
    section.LOSS.MASK_DICE_WEIGHT = 2.0
    section.LOSS.OBJECTNESS_WEIGHT = 1.0

    section.MATCHER = CfgNode()
    section.MATCHER.NAME = "SparseInstMatcher"
    section.MATCHER.ALPHA = 0.8  # exponent of the dice score
    section.MATCHER.BETA = 0.2  # exponent of the class probability


def check_config(cfg: CfgNode) -> None:
    """Refuses published keys with values that are not supported, and warns of another optimiser than the published one.

    Raises:
        UserError: a value is not supported.
    """
    if cfg.SOLVER.OPTIMIZER != "ADAMW":
        logger.warning(
            "SOLVER.OPTIMIZER is %s. SparseInst's learning rates are made for AdamW, which published files leave unsaid: "
            "add SOLVER.OPTIMIZER ADAMW.",
            cfg.SOLVER.OPTIMIZER,
        )
    if cfg.SOLVER.AMSGRAD:
        raise UserError("SOLVER.AMSGRAD True: this project's optimisers have no AMSGrad; remove the key.")
    for name, known in _KNOWN.items():
        group, key = name.split(".")
        value = cfg.MODEL.SPARSE_INST[group][key]
        if (list(value) if isinstance(value, tuple) else value) not in known:
            wanted = " or ".join(repr(one) for one in known)
            raise UserError(f"MODEL.SPARSE_INST.{name} is {value!r}; it can be {wanted}.")
