"""Keys of SOLOv2 and SOTR, which share most of them; names and defaults as published (docs/parity/solov2.md)."""

from detectron2.config import CfgNode


def add_solov2_config(cfg: CfgNode) -> None:
    """Adds `MODEL.SOLOV2.*` (SOLOv2, arXiv 2003.10152)."""
    cfg.MODEL.SOLOV2 = CfgNode()
    solov2 = cfg.MODEL.SOLOV2
    add_grid_keys(solov2)
    solov2.INSTANCE_CHANNELS = 512  # channels of both towers
    solov2.NUM_INSTANCE_CONVS = 4  # depth of both towers
    # The last convolution of both towers is deformable. (The published code has the key and never reads it.)
    solov2.USE_DCN_IN_INSTANCE = False
    solov2.TYPE_DCN = "DCN"  # "DCN", or "DCNv2": modulated


def add_sotr_config(cfg: CfgNode) -> None:
    """Adds `MODEL.SOTR.*` (SOTR, arXiv 2108.06747)."""
    cfg.MODEL.SOTR = CfgNode()
    sotr = cfg.MODEL.SOTR
    add_grid_keys(sotr)
    # The transformer is as wide as the maps that it reads (INSTANCE_IN_CHANNELS). In the published code these are constants.
    sotr.TRANSFORMER_DEPTH = 12  # pairs of an attention block and a convolution block
    sotr.TRANSFORMER_HEADS = 8


def add_grid_keys(section: CfgNode) -> None:
    """Adds the keys of a segmenter whose queries are the cells of grids over the image."""
    section.INSTANCE_IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]  # first p2 is halved, and p6 gets the size of p5
    section.FPN_INSTANCE_STRIDES = [8, 8, 16, 32, 32]  # after that; a mask needs more quarter-size cells than this
    section.FPN_SCALE_RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))  # root of box area, pixels
    section.NUM_GRIDS = [40, 36, 24, 16, 12]  # cells along a side of each level's grid
    section.SIGMA = 0.2  # side of an instance's centre region, as a share of its box
    section.INSTANCE_IN_CHANNELS = 256  # channels of the FPN's maps
    section.NUM_CLASSES = 80
    section.NUM_KERNELS = 256  # numbers of a query; equal to NUM_MASKS
    section.NORM = "GN"  # "GN" or "none"
    section.PRIOR_PROB = 0.01  # class probability that the bias of cate_pred starts from

    section.MASK_IN_FEATURES = ["p2", "p3", "p4", "p5"]
    section.MASK_IN_CHANNELS = 256  # channels of the FPN's maps
    section.MASK_CHANNELS = 128  # channels inside the mask branch
    section.NUM_MASKS = 256  # channels of the dense map

    section.SCORE_THR = 0.1  # score that a (cell, class) pair must exceed to become a candidate
    section.MASK_THR = 0.5  # threshold of mask probabilities; with NMS_TYPE "mask" also of the IoU
    section.NMS_PRE = 500  # candidates kept before the NMS
    section.NMS_TYPE = "matrix"  # "matrix", or "mask": greedy
    section.NMS_KERNEL = "gaussian"  # kernel of the matrix NMS: "gaussian" or "linear"
    section.NMS_SIGMA = 2.0  # sigma of the gaussian kernel
    section.UPDATE_THR = 0.05  # score that a result must reach after the matrix NMS
    section.MAX_PER_IMG = 100  # results per image

    section.LOSS = CfgNode()
    section.LOSS.FOCAL_ALPHA = 0.25
    section.LOSS.FOCAL_GAMMA = 2.0
    section.LOSS.FOCAL_WEIGHT = 1.0
    section.LOSS.DICE_WEIGHT = 3.0
