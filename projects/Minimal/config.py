"""The project's own config keys."""

from detectron2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Adds `MODEL.MINIMAL.*`; `--project` calls it before any YAML file is read."""
    cfg.MODEL.MINIMAL = CfgNode()
    cfg.MODEL.MINIMAL.NUM_CLASSES = 80  # keys of this name get the data sets' number of classes
    cfg.MODEL.MINIMAL.QUERY_FEATURE = "p4"  # the pyramid's map whose cells are the queries
    cfg.MODEL.MINIMAL.DIM = 32  # numbers in a query and in a pixel
    cfg.MODEL.MINIMAL.MASK_WEIGHT = 3.0  # weight of loss_mask beside loss_cls
    cfg.MODEL.MINIMAL.SCORE_THRESH = 0.05  # lowest score of results
    cfg.MODEL.MINIMAL.MAX_DETECTIONS = 100  # most results of an image
