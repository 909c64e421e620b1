"""The project's own config keys; values are those of the published scripts."""

from detectron2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds `MODEL.SOLQ.*`; `--project` calls it before any YAML file is read."""
    cfg.MODEL.SOLQ = CfgNode()
    solq = cfg.MODEL.SOLQ
    solq.NUM_CLASSES = 80  # keys of this name get the data sets' number of classes
    # Published: there is a logit for each COCO category id (91, some without a category). False: one for each class.
    solq.CATEGORY_IDS = False
    solq.IN_FEATURES = ["res3", "res4", "res5"]  # the backbone's maps; a coarser one is made from the last map
    solq.HIDDEN_DIM = 384
    solq.DIM_FEEDFORWARD = 1024
    solq.NHEADS = 8
    solq.ENC_LAYERS = 6
    solq.DEC_LAYERS = 6
    solq.NUM_POINTS = 4  # points that a head reads on each map
    solq.NUM_QUERIES = 300
    solq.DROPOUT = 0.1
    solq.VECTOR_HIDDEN_DIM = 1024  # width of the mask head
    solq.MASK_SIDE = 128  # cells along a side of a mask's patch, which is the instance's box
    solq.NUM_COEFFICIENTS = 256  # coefficients of the patch's cosine transform
    # Weights of losses; those of class, box and GIoU are also the weights of the matching costs.
    solq.CLASS_WEIGHT = 2.0
    solq.BOX_WEIGHT = 5.0
    solq.GIOU_WEIGHT = 2.0
    solq.VECTOR_WEIGHT = 3.0
    # The padded sides are multiples of it. Published: 0, exactly as large as the largest image. timm's networks need 32.
    solq.SIZE_DIVISIBILITY = 0
    # Not published: the pixels of instance-unique querying (pixel_solq.py).
    solq.PIXEL_DIM = 128  # numbers in a pixel
    solq.PIXEL_WEIGHT = 1.0  # weight of the dice loss and of the cross-entropy of their masks
