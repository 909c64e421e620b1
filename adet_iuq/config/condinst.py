"""Keys of FCOS and CondInst, under AdelaiDet's names and with its defaults (docs/parity/condinst.md)."""

from detectron2.config import CfgNode


def add_fcos_config(cfg: CfgNode) -> None:
    """Adds `MODEL.FCOS.*` (FCOS, arXiv 1904.01355)."""
    cfg.MODEL.FCOS = CfgNode()
    fcos = cfg.MODEL.FCOS
    fcos.NUM_CLASSES = 80  # filled from the data set unless set
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    fcos.FPN_STRIDES = [8, 16, 32, 64, 128]
    fcos.TOP_LEVELS = 2  # FPN levels above p5: 2 (p6, p7), 1 (p6) or 0
    fcos.PRIOR_PROB = 0.01  # class probability that the bias of cls_logits starts from
    # Bias that bbox_pred starts from. Published: 0. Its output passes a ReLU, which dies from random weights: use 1
    # whenever training starts without pretrained weights.
    fcos.BBOX_BIAS_INIT = 0.0

    fcos.NORM = "GN"  # norm of the towers: "GN", "BN" or "SyncBN" (these two have one norm per level), "none"
    fcos.NUM_CLS_CONVS = 4
    fcos.NUM_BOX_CONVS = 4
    fcos.NUM_SHARE_CONVS = 0
    fcos.USE_SCALE = True  # each level has a learned factor for the box regression
    fcos.BOX_QUALITY = "ctrness"  # what the fourth branch predicts: "ctrness" or "iou"

    fcos.CENTER_SAMPLE = True
    fcos.POS_RADIUS = 1.5  # half the side of the centre region, in strides
    fcos.SIZES_OF_INTEREST = [64, 128, 256, 512]  # pixels; bounds between levels, and scales of relative coordinates
    fcos.LOC_LOSS_TYPE = "giou"  # "iou", "linear_iou", "giou"
    fcos.LOSS_ALPHA = 0.25  # alpha of the classes' focal loss
    fcos.LOSS_GAMMA = 2.0
    fcos.LOSS_NORMALIZER_CLS = "fg"  # "fg", "moving_fg", "all"
    fcos.LOSS_WEIGHT_CLS = 1.0

    fcos.INFERENCE_TH_TEST = 0.05  # score threshold before the NMS
    fcos.PRE_NMS_TOPK_TEST = 1000  # candidates per image and level
    fcos.POST_NMS_TOPK_TEST = 100  # detections per image
    fcos.NMS_TH = 0.6  # IoU; <= 0: no NMS
    fcos.THRESH_WITH_CTR = False  # whether scores are multiplied by the centerness before the threshold


def add_bifpn_config(cfg: CfgNode) -> None:
    """Adds `MODEL.BiFPN.*` (EfficientDet, arXiv 1911.09070), for `build_fcos_resnet_bifpn_backbone`."""
    cfg.MODEL.BiFPN = CfgNode()
    cfg.MODEL.BiFPN.IN_FEATURES = ["res3", "res4", "res5"]  # the two levels above are computed from the last one
    cfg.MODEL.BiFPN.OUT_CHANNELS = 160
    cfg.MODEL.BiFPN.NUM_REPEATS = 6
    cfg.MODEL.BiFPN.NORM = ""  # "SyncBN" in the published recipes


def add_condinst_config(cfg: CfgNode) -> None:
    """Adds `MODEL.CONDINST.*` (CondInst, arXiv 2003.05664)."""
    cfg.MODEL.CONDINST = CfgNode()
    condinst = cfg.MODEL.CONDINST
    condinst.MASK_OUT_STRIDE = 4  # stride of the masks in the loss and of the head's output: 8, 4, 2 or 1
    condinst.MAX_PROPOSALS = -1  # the most training queries per GPU, drawn at random; -1: no limit
    condinst.TOPK_PROPOSALS_PER_IM = -1  # the most training queries per image, by score; not both limits
    condinst.LOSS_WEIGHT_MASK = 1.0  # of the mask loss; not a published key

    condinst.MASK_HEAD = CfgNode()
    condinst.MASK_HEAD.CHANNELS = 8
    condinst.MASK_HEAD.NUM_LAYERS = 3
    condinst.MASK_HEAD.DISABLE_REL_COORDS = False

    condinst.MASK_BRANCH = CfgNode()
    condinst.MASK_BRANCH.OUT_CHANNELS = 8
    condinst.MASK_BRANCH.IN_FEATURES = ["p3", "p4", "p5"]
    condinst.MASK_BRANCH.CHANNELS = 128
    condinst.MASK_BRANCH.NUM_CONVS = 4
    condinst.MASK_BRANCH.NORM = "BN"
    condinst.MASK_BRANCH.SEMANTIC_LOSS_ON = False
